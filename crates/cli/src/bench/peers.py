#!/usr/bin/env python3
"""Times a training step of this trainer's peers with the host's own PyTorch.

    python3 peers.py --request request.json --output result.json [--plain]
    python3 peers.py --self-test

Peers: `frozen` (forward and backward of the frozen model, no weight gradient: the floor),
`official-stateless` and `official-materialized` (the layer of the official GPart code, arXiv 2605.14841,
written anew from its formulas), `lora` (PEFT), and `matmul-ceiling` (the host's best square product).
Each peer runs in a process of its own, so that an error, a crash or a full memory costs only its own row.
Needs PyTorch; `transformers` and `peft` are used where they are installed. Progress goes to stderr; stdout
stays empty (but for `--self-test`). Exit codes: 0 result written, 1 self-test failed, 2 bad request.
"""

import argparse
import contextlib
import ctypes
import importlib.metadata
import importlib.util
import json
import math
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback

try:
    import torch
    import torch.nn.functional as functional
    from torch import nn
    from torch.utils.checkpoint import checkpoint
except ImportError as missing:  # The parent and its children need it alike.
    sys.exit(f"peers: torch cannot be imported by {sys.executable}: {missing}")

CEILING = "matmul-ceiling"
PEERS = ("frozen", "official-stateless", "official-materialized", "lora")
DEFAULTS = {
    "device": "cpu", "dtype": "float32", "d": 524288, "dropout": 0.05,
    "targets": ["q_proj", "k_proj", "v_proj", "o_proj"], "repeats": 5, "warmup": 2, "threads": 1,
    "peers": list(PEERS), "lora_rank": 16, "lora_alpha": 32, "seed": 1, "proj_seed": 42, "recompute": False,
    # The official code and PEFT's users leave torch's deterministic algorithms off; `deterministic` speaks of our
    # own trainer and is not read here.
    "peers_deterministic": False,
    # bf16 autocast around the forward pass, as the Hugging Face Trainer does with `bf16=True`. The frozen floor
    # runs without it.
    "autocast": True,
    "learning_rate": 2e-4, "weight_decay": 0.01, "max_grad_norm": 1.0, "timeout_seconds": None,
}


def say(text):
    print(f"peers: {text}", file=sys.stderr, flush=True)


# ---- The parent: one child a peer ------------------------------------------------------------------------------

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--request")
    parser.add_argument("--output")
    parser.add_argument("--plain", action="store_true", help="use the decoder of this file, not transformers")
    parser.add_argument("--self-test", action="store_true", help="run every peer on a tiny shape on the CPU")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.self_test:
        return self_test(args.plain)
    if not args.request or not args.output:
        parser.error("--request and --output are required")
    try:
        with open(args.request, encoding="utf-8") as file:
            request = checked(json.load(file))
    except (OSError, ValueError) as error:
        say(f"bad request {args.request}: {error}")
        return 2
    if args.child:
        return child(request, args.child, args.output, args.plain)
    measure_all(request, args.output, args.plain)
    return 0


def checked(request):
    """The request with its defaults; `ValueError` names the first key that cannot be used."""
    if not isinstance(request, dict) or not isinstance(request.get("config"), dict):
        raise ValueError("config: an object (a Hugging Face config.json) is required")
    lengths = request.get("lengths")
    good = isinstance(lengths, list) and lengths and all(
        isinstance(rows, list) and rows and all(isinstance(n, int) and n >= 2 for n in rows) for rows in lengths)
    if not good:
        raise ValueError("lengths: a list of micro-batches, each a list of token counts of at least 2, is required")
    full = {**DEFAULTS, **{key: value for key, value in request.items() if value is not None}}
    if full["dtype"] not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"dtype: {full['dtype']!r} is not float32, bfloat16 or float16")
    for key, least in (("d", 1), ("repeats", 1), ("warmup", 0), ("threads", 1)):
        if not isinstance(full[key], int) or full[key] < least:
            raise ValueError(f"{key}: {full[key]!r} is not a whole number of at least {least}")
    return full


def measure_all(request, output, plain):
    """Runs the peers one after another; the result file is complete after each of them."""
    result = {"torch": torch.__version__, "transformers": version("transformers"), "peft": version("peft"),
              "device": None, "rows": []}
    peers = [peer for peer in request["peers"] if peer != CEILING] + [CEILING]
    with tempfile.TemporaryDirectory(prefix="gpart-peers-") as folder:
        path = os.path.join(folder, "request.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(request, file)
        for peer in peers:
            answer = run_child(request, peer, path, os.path.join(folder, "answer.json"), plain)
            result["device"] = result["device"] or answer.pop("device", None)
            result["rows"].append({"peer": peer, **answer["row"]})
            write_json(output, result)
    return result


def run_child(request, peer, path, answer_path, plain):
    if peer not in PEERS and peer != CEILING:
        return {"row": {"failed": f"unknown peer {peer!r}: choose from {', '.join(PEERS)}"}}
    with contextlib.suppress(FileNotFoundError):
        os.remove(answer_path)
    command = [sys.executable, os.path.abspath(__file__), "--child", peer, "--request", path, "--output", answer_path]
    environment = dict(os.environ, TRANSFORMERS_VERBOSITY="error", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    # Our own trainer sets this for reproducible cuBLAS; it would slow the peers down.
    environment.pop("CUBLAS_WORKSPACE_CONFIG", None)
    if request["peers_deterministic"]:
        environment["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    process = subprocess.Popen(command + ["--plain"] * plain, stdin=subprocess.DEVNULL, stdout=sys.stderr,
                               env=environment)
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        code = process.wait(request["timeout_seconds"])
    except subprocess.TimeoutExpired:
        return {"row": {"failed": f"no result within {request['timeout_seconds']} s"}}
    finally:
        process.kill()
        process.wait()
        signal.signal(signal.SIGTERM, previous)
    try:
        with open(answer_path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        reason = f"signal {-code} (9 is how Linux ends a process when memory is full)" if code < 0 else f"code {code}"
        return {"row": {"failed": f"the process ended with {reason} and no result"}}


def write_json(path, value):
    """Writes beside the target and renames, so that a reader never meets half a file."""
    part = f"{path}.part"
    with open(part, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)
        file.write("\n")
    os.replace(part, path)


def version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


# ---- The child: one peer ---------------------------------------------------------------------------------------

class Skip(Exception):
    """A peer that cannot be measured on this host, with what to do about it."""


def child(request, peer, output, plain):
    with contextlib.suppress(Exception):  # Linux: do not outlive the parent (PR_SET_PDEATHSIG = 1).
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    answer = {}
    try:
        if peer == "lora" and importlib.util.find_spec("peft") is None:
            raise Skip("peft is not installed: pip install peft")
        device = prepare_device(request)
        answer["device"] = device_name(device)
        answer["row"] = ceiling(request, device) if peer == CEILING else measure(request, peer, device, plain)
    except Skip as reason:
        answer["row"] = {"skipped": str(reason)}
    except Exception as error:  # Whatever a peer raises is its own row's text.
        traceback.print_exc()
        lines = str(error).strip().splitlines() or [""]
        oom = type(error).__name__ == "OutOfMemoryError"
        answer["row"] = {"failed": lines[0] if oom else f"{type(error).__name__}: {lines[0]}"}
    row = answer["row"]
    say(f"{peer}: " + str(row.get("skipped") or row.get("failed") or row.get("note")))
    write_json(output, answer)
    return 0


def prepare_device(request):
    torch.set_num_threads(request["threads"])
    torch.manual_seed(request["seed"])
    if request["peers_deterministic"]:
        torch.use_deterministic_algorithms(True, warn_only=True)
    if request["device"].startswith("cuda"):
        if not torch.cuda.is_available():
            raise RuntimeError(f"torch {torch.__version__} sees no CUDA device")
        device = torch.device("cuda", torch.device(request["device"]).index or 0)
        torch.cuda.set_device(device)
        return device
    return torch.device(request["device"])


def device_name(device):
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    return str(device)


def measure(request, peer, device, plain):
    dtype = getattr(torch, request["dtype"])
    say(f"{peer}: building {request['config'].get('model_type')}, {request['dtype']} on {device}")
    model, made_by = build_model(request, device, dtype, plain)
    model.train()
    if request["recompute"]:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model, trained, peer_note = ATTACH[peer](model, request)
    optimizer = None
    if trained:
        optimizer = torch.optim.AdamW(trained, lr=request["learning_rate"], weight_decay=request["weight_decay"],
                                      fused=True)
    autocast = request["autocast"] and dtype != torch.float32 and peer != "frozen"
    batches, labels = make_batches(request, device)
    seconds, loss = [], float("nan")
    for index in range(request["warmup"] + request["repeats"]):
        if index == request["warmup"]:
            reset_peak(device)
        synchronize(device)
        start = time.perf_counter()
        loss, _ = train_step(model, batches, labels, optimizer, request["max_grad_norm"],
                             torch.autocast(device.type, dtype) if autocast else contextlib.nullcontext())
        synchronize(device)
        elapsed = time.perf_counter() - start
        say(f"{peer}: {'warm-up' if index < request['warmup'] else 'step'} {elapsed:.4f} s")
        if index >= request["warmup"]:
            seconds.append(elapsed)
    tokens = sum(map(sum, request["lengths"]))
    median = statistics.median(seconds)
    notes = [made_by, peer_note, "autocast" if autocast else "no autocast",
             "deterministic algorithms " + ("on" if request["peers_deterministic"]
                                            else "off (as this code's users run it)"),
             "gradient checkpointing" if request["recompute"] else "no recompute",
             "no data loading or logging in the time"]
    return {"seconds": median, "all_seconds": seconds, "tokens": tokens,
            "padded_tokens": sum(len(rows) * max(rows) for rows in request["lengths"]),
            "tokens_per_second": tokens / median, "peak_bytes": peak_bytes(device), "note": "; ".join(notes),
            "loss": float(loss)}


def train_step(model, batches, labels, optimizer, max_grad_norm, context):
    """One update as the Hugging Face Trainer makes it: the loss is summed over all micro-batches' labels and divided
    by `labels`, their number in the whole step; the gradient is clipped to a global norm. Returns loss and norm."""
    total, norm = 0.0, None
    for batch in batches:
        with context:
            loss = model(**batch, num_items_in_batch=labels).loss
        loss.backward()
        total = total + loss.detach()
        del loss
    if optimizer is not None:
        trained = optimizer.param_groups[0]["params"]
        norm = nn.utils.clip_grad_norm_(trained, max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return total, norm


def make_batches(request, device):
    """Random tokens, padded on the right to the longest row of each micro-batch, as the official collator does.
    All tokens but the first of a row are labels. Returns the micro-batches and the labels' number."""
    generator = torch.Generator().manual_seed(request["seed"])
    batches = []
    for rows in request["lengths"]:
        ids = torch.randint(0, request["config"]["vocab_size"], (len(rows), max(rows)), generator=generator)
        mask = (torch.arange(max(rows)) < torch.tensor(rows)[:, None]).long()
        ids = ids * mask
        labels = ids.masked_fill(mask == 0, -100)
        labels[:, 0] = -100
        batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        batches.append({key: value.to(device) for key, value in batch.items()})
    count = sum(int((batch["labels"] != -100).sum()) for batch in batches)
    return batches, torch.tensor(count, device=device)


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak(device):
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:  # Linux: 5 resets the peak of the resident set.
        with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")


def peak_bytes(device):
    """Bytes: the allocator's peak on CUDA, the process's peak resident set (libraries included) on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def ceiling(request, device):
    """The host's rate for one square product of the request's dtype, the largest of several."""
    size, runs = (8192, 30) if device.type == "cuda" else (1024, 8)
    dtype = getattr(torch, request["dtype"])
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for index in range(3 + runs):
        synchronize(device)
        start = time.perf_counter()
        left @ right
        synchronize(device)
        if index >= 3:
            seconds.append(time.perf_counter() - start)
    rates = [2 * size ** 3 / value / 1e12 for value in seconds]
    note = f"{request['dtype']} {size}^3, best of {runs} (median {statistics.median(rates):.4g})"
    return {"teraflops": max(rates), "note": note}


# ---- The peers -------------------------------------------------------------------------------------------------

def attach_frozen(model, _request):
    # The embedding lies right below the first adapted block: its output is that block's input.
    model.get_input_embeddings().register_forward_hook(lambda _module, _inputs, output: output.requires_grad_(True))
    return model, [], "gradient of the first block's input only"


def attach_lora(model, request):
    from peft import LoraConfig, get_peft_model
    config = LoraConfig(r=request["lora_rank"], lora_alpha=request["lora_alpha"], lora_dropout=request["dropout"],
                        target_modules=list(request["targets"]),
                        task_type=None if isinstance(model, PlainDecoder) else "CAUSAL_LM")
    model = get_peft_model(model, config)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    note = f"peft {version('peft')}, rank {config.r}, {sum(p.numel() for p in trained)} trained numbers"
    return model, trained, note


def attach_gpart(model, request, backend, initial=None):
    """Puts a GPart layer in the place of every target in the model's module order. Theta is float32; the official
    code starts it at zero, here it starts small and random (`initial` overrides it), because products with a zero
    matrix draw less power and run faster than those of real training."""
    d, targets = request["d"], tuple("." + target for target in request["targets"])
    found = [(name, module) for name, module in model.named_modules()
             if isinstance(module, nn.Linear) and ("." + name).endswith(targets)]
    if not found:
        raise ValueError(f"no linear layer of the model ends with one of {', '.join(request['targets'])}")
    device = found[0][1].weight.device
    if initial is None:
        initial = torch.randn(d, generator=torch.Generator().manual_seed(request["seed"])) * 0.02
    theta = nn.Parameter(initial.to(device, torch.float32))
    counts = torch.zeros(d, dtype=torch.int64, device=device)
    stream = torch.Generator().manual_seed(request["proj_seed"])
    layers, offset = [], 0
    for _, module in found:
        count, ids = module.weight.numel(), None
        if backend == "materialized":
            ids = torch.randint(0, d, (count,), generator=stream, dtype=torch.int32).to(device)
            counts += torch.bincount(ids, minlength=d)
        else:
            for start in range(offset, offset + count, 1 << 22):
                chunk = min(1 << 22, offset + count - start)
                counts += torch.bincount(group_ids(start, chunk, d, request["proj_seed"], device), minlength=d)
        layers.append((offset, ids))
        offset += count
    # An isometry: a group of n weights is scaled by 1/sqrt(n).
    scales = 1.0 / torch.sqrt(counts.clamp_(min=1).float())
    for (name, module), (start, ids) in zip(found, layers):
        parent, _, leaf = name.rpartition(".")
        layer = GPartLinear(module, theta, scales, request["dropout"], (start, request["proj_seed"]), ids)
        setattr(model.get_submodule(parent), leaf, layer.train(model.training))
    return model, [theta], f"GPart {backend}, d {d} over {offset} weights, proj seed {request['proj_seed']}"


ATTACH = {
    "frozen": attach_frozen,
    "official-stateless": lambda model, request: attach_gpart(model, request, "stateless"),
    "official-materialized": lambda model, request: attach_gpart(model, request, "materialized"),
    "lora": attach_lora,
}


def signed(value):
    """The 64-bit two's complement reading of a number, which is how int64 tensors hold unsigned ones."""
    value %= 1 << 64
    return value - (1 << 64) if value >= 1 << 63 else value


def group_ids(start, count, d, seed, device):
    """Groups of the global positions start … start + count - 1: SplitMix64's output function of
    seed + position + golden gamma, modulo d as an unsigned number, in int64 operations (in place where torch can)."""
    z = torch.arange(start, start + count, dtype=torch.int64, device=device)
    z += signed(seed + 0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        # `>>` copies the sign; the mask makes it a logical shift.
        z ^= (z >> shift).bitwise_and_((1 << (64 - shift)) - 1)
        if factor != 1:
            z *= signed(factor)
    # The signed remainder is the unsigned one where 2^64 is a multiple of d, and else needs 2^64 mod d more for
    # negative readings.
    wrap = (1 << 64) % d
    ids = z.remainder(d)
    return torch.where(z < 0, (ids + wrap).remainder_(d), ids) if wrap else ids


def draw_mask(weight_shape, x, dropout):
    return functional.dropout(torch.ones(weight_shape, dtype=x.dtype, device=x.device), dropout, True)


def redraw_mask(weight_shape, x, dropout, state):
    """The mask that `draw_mask` drew from this generator state, without moving the global generator."""
    cuda = x.device.type == "cuda"
    with torch.random.fork_rng(devices=[x.device] if cuda else []):
        if cuda:
            torch.cuda.set_rng_state(state, x.device)
        else:
            torch.set_rng_state(state)
        return draw_mask(weight_shape, x, dropout)


class StatelessLinear(torch.autograd.Function):
    """x · dWᵀ with dW made on the spot, in forward and again in backward. Kept for backward: x, the two vectors of
    length d, and the generator's state before the mask was drawn."""

    @staticmethod
    def forward(ctx, x, theta, scales, weight_shape, place, dropout):
        state = None
        ids = group_ids(place[0], math.prod(weight_shape), theta.numel(), place[1], x.device)
        delta = (theta * scales)[ids].view(weight_shape)
        if dropout > 0:
            state = torch.cuda.get_rng_state(x.device) if x.device.type == "cuda" else torch.get_rng_state()
            delta *= draw_mask(weight_shape, x, dropout)
        ctx.save_for_backward(x, theta, scales)
        ctx.facts = weight_shape, place, dropout, state
        return functional.linear(x, delta)

    @staticmethod
    def backward(ctx, upstream):
        x, theta, scales = ctx.saved_tensors
        weight_shape, place, dropout, state = ctx.facts
        ids = group_ids(place[0], math.prod(weight_shape), theta.numel(), place[1], x.device)
        mask = None if state is None else redraw_mask(weight_shape, x, dropout, state)
        upstream = upstream.reshape(-1, weight_shape[0]).to(x.dtype)
        grad_x = None
        if ctx.needs_input_grad[0]:
            delta = (theta * scales)[ids].view(weight_shape)
            if mask is not None:
                delta *= mask
            grad_x = (upstream @ delta).view(x.shape)
            del delta
        grad = upstream.t() @ x.reshape(-1, weight_shape[1])
        if mask is not None:
            grad *= mask
        grad = grad.view(-1).mul_(scales[ids])
        return grad_x, torch.zeros_like(theta).scatter_add_(0, ids, grad), None, None, None, None


class GPartLinear(nn.Module):
    """base(x) + Linear(x; dW), dW = (theta · scale)[ids] in the base weight's dtype, with dropout on dW."""

    def __init__(self, base, theta, scales, dropout, place, ids):
        super().__init__()
        self.base, self.dropout = base, dropout
        self.shared = theta, scales  # One vector for all layers: not a parameter of this module.
        self.place = place  # Global position of the first weight, and the seed.
        self.ids = ids  # None: stateless.

    def forward(self, x):
        weight, (theta, scales) = self.base.weight, self.shared
        result = self.base(x)
        inner, theta, scales = x.to(weight.dtype), theta.to(weight.dtype), scales.to(weight.dtype)
        if self.ids is None:
            dropout = self.dropout if self.training else 0.0
            delta = StatelessLinear.apply(inner, theta, scales, tuple(weight.shape), self.place, dropout)
        else:
            delta = (theta * scales)[self.ids].view(weight.shape)
            delta = functional.linear(inner, functional.dropout(delta, self.dropout, self.training))
        return (result + delta.to(result.dtype)).to(x.dtype)


# ---- The model -------------------------------------------------------------------------------------------------

def build_model(request, device, dtype, plain):
    """A decoder of the request's shape with random weights, made on the device; and the words for the note."""
    transformers, why = None, "--plain"
    if not plain:
        try:
            import transformers
        except Exception as error:  # Absent, or broken by a mismatch with torch: both leave the plain decoder.
            why = f"transformers cannot be imported ({type(error).__name__})"
    with torch.device(device):
        if transformers is None:
            usual = torch.get_default_dtype()
            torch.set_default_dtype(dtype)
            model, note = PlainDecoder(request["config"]), f"plain torch decoder: {why}"
            torch.set_default_dtype(usual)
        else:
            model, note = hugging_face_model(transformers, request["config"], dtype)
    fill(model, request["seed"])
    return model, note


def hugging_face_model(transformers, config, dtype):
    values = {key: value for key, value in config.items()
              if key not in ("architectures", "transformers_version", "torch_dtype", "dtype", "model_type")}
    made = transformers.AutoConfig.for_model(config["model_type"], **values)
    made.use_cache = False
    try:  # Weights are filled in below, so the library's own draws are left out where it lets us.
        from transformers.initialization import no_init_weights
    except ImportError:
        no_init_weights = contextlib.nullcontext
    with no_init_weights():
        try:
            model = transformers.AutoModelForCausalLM.from_config(made, dtype=dtype, attn_implementation="sdpa")
        except TypeError:  # The name before transformers 4.56.
            model = transformers.AutoModelForCausalLM.from_config(made, torch_dtype=dtype, attn_implementation="sdpa")
    model.tie_weights()  # Leaving out the draws leaves this out too.
    for parameter in model.parameters():  # Not `model.to`: rotary frequencies stay float32.
        parameter.data = parameter.data.to(dtype)
    return model, f"transformers {transformers.__version__}, sdpa"


def fill(model, seed):
    """Matrices normal with deviation 0.02, norms one, biases zero: the same for the two decoders."""
    parameters = sorted(model.named_parameters())
    generator = torch.Generator(parameters[0][1].device).manual_seed(seed)
    with torch.no_grad():
        for name, parameter in parameters:
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.02, generator=generator)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)


def rope_frequencies(config, head_dim):
    """Inverse frequencies of the rotary embedding, with Llama 3's scaling where the config asks for it."""
    rope = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    base = rope.get("rope_theta") or config.get("rope_theta") or 10000.0
    inverse = 1.0 / base ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return inverse
    if kind != "llama3":
        raise ValueError(f"rope type {kind!r} needs transformers: pip install transformers")
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    turns = rope["original_max_position_embeddings"] * inverse / (2 * math.pi)
    smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return (1 - smooth) * inverse / rope["factor"] + smooth * inverse


# Biases of the query, key and value products, and of the output product.
PLAIN_KINDS = {"llama": (False, False), "qwen2": (True, False)}


class Norm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x):
        return functional.rms_norm(x, x.shape[-1:], self.weight, self.eps)


def rotate(x, cos, sin):
    left, right = x.chunk(2, -1)
    return x * cos + torch.cat((-right, left), -1) * sin


class Attention(nn.Module):
    def __init__(self, config, head_dim):
        super().__init__()
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        kv = config.get("num_key_value_heads") or heads
        qkv_bias, o_bias = PLAIN_KINDS[config["model_type"]]
        if config["model_type"] == "llama":
            qkv_bias = o_bias = bool(config.get("attention_bias"))
        self.q_proj = nn.Linear(hidden, heads * head_dim, bias=qkv_bias)
        self.k_proj = nn.Linear(hidden, kv * head_dim, bias=qkv_bias)
        self.v_proj = nn.Linear(hidden, kv * head_dim, bias=qkv_bias)
        self.o_proj = nn.Linear(heads * head_dim, hidden, bias=o_bias)
        self.head_dim = head_dim

    def forward(self, x, cos, sin):
        q, k, v = (project(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
                   for project in (self.q_proj, self.k_proj, self.v_proj))
        # Padding lies on the right, where the causal mask hides it from every real token.
        out = functional.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v,
                                                      is_causal=True, enable_gqa=q.shape[1] != k.shape[1])
        return self.o_proj(out.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, config):
        super().__init__()
        hidden, inner, bias = config["hidden_size"], config["intermediate_size"], bool(config.get("mlp_bias"))
        self.gate_proj = nn.Linear(hidden, inner, bias=bias)
        self.up_proj = nn.Linear(hidden, inner, bias=bias)
        self.down_proj = nn.Linear(inner, hidden, bias=bias)

    def forward(self, x):
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, config, head_dim):
        super().__init__()
        eps = config.get("rms_norm_eps", 1e-6)
        self.self_attn, self.mlp = Attention(config, head_dim), Mlp(config)
        self.input_layernorm = Norm(config["hidden_size"], eps)
        self.post_attention_layernorm = Norm(config["hidden_size"], eps)

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Output:
    def __init__(self, loss):
        self.loss = loss


class PlainDecoder(nn.Module):
    """Llama or Qwen2 in torch alone, with Hugging Face's parameter names."""

    def __init__(self, config):
        super().__init__()
        if config["model_type"] not in PLAIN_KINDS:
            raise ValueError(f"model type {config['model_type']!r} needs transformers: pip install transformers")
        hidden, vocabulary = config["hidden_size"], config["vocab_size"]
        head_dim = config.get("head_dim") or hidden // config["num_attention_heads"]
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(vocabulary, hidden)
        self.model.layers = nn.ModuleList(Block(config, head_dim) for _ in range(config["num_hidden_layers"]))
        self.model.norm = Norm(hidden, config.get("rms_norm_eps", 1e-6))
        self.lm_head = nn.Linear(hidden, vocabulary, bias=False)
        if config.get("tie_word_embeddings"):
            self.lm_head.weight = self.model.embed_tokens.weight
        self.frequencies, self.recompute = rope_frequencies(config, head_dim), False

    def get_input_embeddings(self):
        return self.model.embed_tokens

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs):
        self.recompute = True

    def forward(self, input_ids, attention_mask=None, labels=None, num_items_in_batch=None):
        x = self.model.embed_tokens(input_ids)
        angles = torch.arange(x.shape[1], device=x.device)[:, None] * self.frequencies.to(x.device)
        angles = torch.cat((angles, angles), -1)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        for block in self.model.layers:
            if self.recompute:
                x = checkpoint(block, x, cos, sin, use_reentrant=False)
            else:
                x = block(x, cos, sin)
        logits = self.lm_head(self.model.norm(x)).float()
        shifted = functional.pad(labels, (0, 1), value=-100)[:, 1:]
        loss = functional.cross_entropy(logits.flatten(0, 1), shifted.flatten(), ignore_index=-100,
                                        reduction="sum")
        return Output(loss / num_items_in_batch)


# ---- Self-test -------------------------------------------------------------------------------------------------

TINY = {
    "config": {"model_type": "llama", "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
               "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512, "rms_norm_eps": 1e-5,
               "rope_theta": 10000.0, "max_position_embeddings": 64, "tie_word_embeddings": False},
    "d": 1000, "lengths": [[24, 17], [9, 30]], "repeats": 2, "warmup": 1,
}
GOLDEN_IDS = [224917, 520072, 152659, 19158, 143367, 318341, 524067, 174424, 218315, 475240, 278602, 28534]


def self_test(plain):
    checks = [("group ids", group_ids(0, 12, 524288, 42, "cpu").tolist() == GOLDEN_IDS
               and group_ids(0, 8, 100, -1, "cpu").tolist() == [36, 35, 65, 10, 53, 78, 18, 92])]
    for recompute in (False, True):
        with tempfile.TemporaryDirectory(prefix="gpart-peers-") as folder:
            request = checked({**TINY, "recompute": recompute})
            result = measure_all(request, os.path.join(folder, "result.json"), plain)
        for row in result["rows"]:
            name = row["peer"] + (" with recompute" if recompute else "")
            if row["peer"] == CEILING:
                checks.append((name, row.get("teraflops", 0) > 0))
            elif "skipped" in row:
                checks.append((f"{name}: skipped, {row['skipped']}", True))
            else:  # The loss of random weights is close to ln(512) = 6.24.
                checks.append((name, row.get("seconds", 0) > 0 and abs(row.get("loss", 0) - math.log(512)) < 0.5))
    for name, good in checks:
        print(f"{'OK    ' if good else 'failed'} {name}")
    return 0 if all(good for _, good in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
