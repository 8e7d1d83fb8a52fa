"""Greedy generation with transformers, as a peer of `gpart-dist eval`: the same prompts, the same batch, one thread.

Prompts are sorted by length and padded on the left, batch by batch; tokens up to the end-of-sequence token count.
Prints one line of JSON.
"""

import argparse
import json
import time

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

parser = argparse.ArgumentParser()
parser.add_argument("--model", required=True)
parser.add_argument("--data", required=True)
parser.add_argument("--max-samples", type=int, required=True)
parser.add_argument("--batch-size", type=int, required=True)
parser.add_argument("--max-new-tokens", type=int, required=True)
args = parser.parse_args()

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
tokenizer = AutoTokenizer.from_pretrained(args.model)
model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
with open(args.data) as file:
    rows = [json.loads(line) for line in file][: args.max_samples]
begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
prompts = [
    begin + tokenizer(f"Question: {row['question'].strip()}\nAnswer:", add_special_tokens=False).input_ids for row in rows
]
prompts.sort(key=len, reverse=True)
end = tokenizer.eos_token_id


def generate(batch):
    """Numbers of new tokens of a batch of prompts."""
    width = max(map(len, batch))
    ids = torch.tensor([[end] * (width - len(row)) + row for row in batch])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in batch])
    out = model.generate(
        ids, attention_mask=mask, max_new_tokens=args.max_new_tokens, do_sample=False, num_beams=1, pad_token_id=end
    )
    new = out[:, width:].tolist()
    return [row.index(end) + 1 if end in row else len(row) for row in new]


with torch.no_grad():
    model.generate(torch.tensor([prompts[0]]), max_new_tokens=2, do_sample=False, pad_token_id=end)
    started = time.perf_counter()
    starts = range(0, len(prompts), args.batch_size)
    new_tokens = sum(sum(generate(prompts[at : at + args.batch_size])) for at in starts)
    seconds = time.perf_counter() - started
version = f"transformers {transformers.__version__}, torch {torch.__version__}"
print(json.dumps({"new_tokens": new_tokens, "tokens_per_second": new_tokens / seconds, "version": version}))
