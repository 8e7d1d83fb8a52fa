//! Messages over NCCL, with doubles of the driver and of NCCL in place of both: real ranks under real `mpirun`, but no
//! GPU. What NCCL itself does on a GPU is not tested here.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

use crate::harness::{
    Outcome, Ranks, Running, command, program, repository, scratch, thetas, traffic_as_planned, train,
    training, training_args,
};

/// A folder with the doubles, built once.
fn doubles() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let sources = repository().join("crates/comm/tests/fake_cuda");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("doubles-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let build = |library: &str, source: &str, more: &[&str]| {
            let mut cc = Command::new("cc");
            cc.args(["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread"]);
            cc.arg(format!("-Wl,-soname,{library}")).arg("-o").arg(folder.join(library));
            cc.arg(sources.join(source)).args(more);
            assert!(cc.status().unwrap().success(), "{cc:?}");
        };
        build("libcuda.so.1", "fake_cuda.c", &[]);
        let driver = folder.join("libcuda.so.1");
        build("libnccl.so.2", "fake_nccl.c", &["-Wl,-rpath,$ORIGIN", driver.to_str().unwrap()]);
        folder
    })
}

/// `doctor` on a host whose libraries are in `libraries`, with three GPUs unless `variables` say otherwise.
fn doctor(ranks: Ranks, libraries: &Path, variables: &[(&str, &str)], more: &[&str]) -> Outcome {
    let output = scratch();
    let mut args = vec!["doctor", "--output", output.path().to_str().unwrap()];
    args.extend(more);
    let mut command = command(ranks, &args);
    on_doubles(&mut command, libraries, variables);
    Running::start(command).finish()
}

fn on_doubles(command: &mut Command, libraries: &Path, variables: &[(&str, &str)]) {
    command.env_remove("CUDA_VISIBLE_DEVICES").env_remove("VIRTUAL_ENV").env_remove("CONDA_PREFIX");
    command.env("LD_LIBRARY_PATH", libraries).env("FAKE_CUDA_DEVICES", "3");
    command.envs(variables.iter().copied());
}

fn flat(outcome: &Outcome) -> String {
    outcome.stdout.split_whitespace().collect::<Vec<&str>>().join(" ")
}

/// Sharded and pipelined training over NCCL ends where one rank ends, whether messages go from device to device or through
/// the host's memory, and moves what was planned.
#[test]
fn training_over_nccl() {
    let folder = scratch();
    let held_out = repository().join("configs/demo/heldout.json");
    let always =
        ["--eval-data", held_out.to_str().unwrap(), "--eval-steps", "3", "--sample-prompt", "Question:"];
    let alone = folder.path().join("alone");
    train(Ranks::Alone, &alone, &always);
    let direct = |log: &str| log.lines().any(|line| line.starts_with("direct "));
    let check = |ranks: usize, pointers: &str, mesh: &[&str]| {
        let output = folder.path().join(format!("{pointers}{}", mesh.concat()));
        let log = output.with_extension("log");
        let mut command =
            training(Ranks::Mpi(ranks), &output, &[&["--comm", "nccl"], &always[..], mesh].concat());
        let variables = [
            ("FAKE_CUDA_DEVICES", "4"),
            ("FAKE_CUDA_POINTERS", pointers),
            ("FAKE_CUDA_LOG", log.to_str().unwrap()),
            // What does not wait for a message has not got it.
            ("FAKE_NCCL_DELAY_US", "1000"),
        ];
        on_doubles(&mut command, doubles(), &variables);
        Running::start(command).finish().expect_code(0).expect_text("nccl: as --comm asks");
        assert_eq!(thetas(&output), thetas(&alone), "{pointers} {mesh:?}");
        assert_eq!(held_out_losses(&output), held_out_losses(&alone), "{pointers} {mesh:?}");
        traffic_as_planned(&output);
        let log = std::fs::read_to_string(&log).unwrap();
        assert_eq!(direct(&log), pointers == "device" && mesh[0] != "--dp-replicate", "{pointers} {mesh:?}");
        assert_eq!(log.matches("released with 0 left").count(), ranks, "{log}");
    };
    check(2, "device", &["--dp-shard", "2"]);
    check(3, "device", &["--dp-shard", "3", "--prefetch", "false"]);
    check(2, "device", &["--pp", "2", "--gradient-checkpointing"]);
    check(4, "device", &["--dp-shard", "2", "--pp", "2"]);
    check(3, "device", &["--dp-replicate", "3"]);
    check(2, "host", &["--dp-shard", "2"]);
    check(2, "host", &["--pp", "2"]);
}

/// The head tile by tile in half precision, from device to device; and where one rank's memory is not reached by its device, all
/// ranks send through the host's.
#[test]
fn tiles_over_nccl() {
    let folder = scratch();
    let model = crate::mesh::large_vocabulary(folder.path());
    let model = ["--model", model.to_str().unwrap(), "--dtype", "bfloat16", "--max-steps", "2"];
    let alone = folder.path().join("alone");
    train(Ranks::Alone, &alone, &model);
    for (last, is_direct) in [("device", true), ("host", false)] {
        let output = folder.path().join(last);
        let log = output.with_extension("log");
        let flags = ["--comm", "nccl", "--dp-shard", "2", "--pp", "2"];
        let args = training_args(&output, &[&flags[..], &model].concat());
        let script =
            format!("[ $OMPI_COMM_WORLD_RANK = 3 ] && export FAKE_CUDA_POINTERS={last}; exec \"$0\" \"$@\"");
        let mut command = in_shell(4, &script, &args);
        let variables = [("FAKE_CUDA_DEVICES", "4"), ("FAKE_CUDA_LOG", log.to_str().unwrap())];
        on_doubles(&mut command, doubles(), &variables);
        Running::start(command).finish().expect_code(0);
        assert_eq!(thetas(&output), thetas(&alone), "{last}");
        traffic_as_planned(&output);
        assert_eq!(std::fs::read_to_string(&log).unwrap().contains("direct"), is_direct, "{last}");
    }
}

/// `args` on so many ranks, each started by a shell that runs `script` with the program and its arguments.
fn in_shell(ranks: usize, script: &str, args: &[OsString]) -> Command {
    let plain = command(Ranks::Mpi(ranks), args);
    let mut command = Command::new(plain.get_program());
    command.args(["--oversubscribe", "-n", &ranks.to_string(), "sh", "-c", script]);
    command.arg(program()).args(args).current_dir(repository());
    plain.get_envs().for_each(|(name, value)| {
        value.map(|value| command.env(name, value));
    });
    command
}

fn held_out_losses(output: &Path) -> String {
    std::fs::read_to_string(output.join("held_out.jsonl")).unwrap()
}

/// Every kind of message, several at once, a split, all answers right; everything is given back before the context is.
#[test]
fn every_message_over_nccl() {
    // Two ranks say messages that take several pieces, too.
    for (n, flags) in [(1, vec!["--quick"]), (2, vec![]), (3, vec!["--quick"])] {
        let flags = &[&["--comm", "nccl", "--json"], &flags[..]].concat();
        let folder = scratch();
        let log = folder.path().join("log");
        let variables = [("FAKE_CUDA_LOG", log.to_str().unwrap())];
        let outcome = doctor(Ranks::Mpi(n), doubles(), &variables, flags);
        let outcome = outcome.expect_code(0);
        let report: Value = serde_json::from_str(&outcome.stdout).unwrap();
        let carriers: Vec<&str> =
            report["messages"].as_array().unwrap().iter().map(|m| m["carrier"].as_str().unwrap()).collect();
        if n == 1 {
            // Asked for, it starts for one rank too.
            assert!(report["choice"]["why"].as_str().unwrap().starts_with("nccl:"), "{report}");
            continue;
        }
        assert_eq!(carriers.len(), 2);
        assert_eq!(carriers[1], "NCCL 2.28.9");
        assert_eq!(report["messages"][1]["wrong"], Value::Array(Vec::new()));
        assert_eq!(report["messages"][1]["measured"].as_array().unwrap().len(), if n == 2 { 20 } else { 10 });
        assert_eq!(report["gpus"]["devices"], Value::from((0..n).collect::<Vec<usize>>()));
        let log = std::fs::read_to_string(&log).unwrap();
        assert_eq!(log, "released with 0 left\n".repeat(n));
    }
}

/// What is missing or does not fit is said, with what to do.
#[test]
fn what_nccl_lacks() {
    let driver_alone = scratch();
    std::fs::copy(doubles().join("libcuda.so.1"), driver_alone.path().join("libcuda.so.1")).unwrap();
    let nothing = scratch();
    let check = |libraries: &Path, variables: &[(&str, &str)], says: &[&str]| {
        let outcome =
            doctor(Ranks::Mpi(2), libraries, variables, &["--comm", "nccl", "--quick"]).expect_code(1);
        let page = flat(&outcome);
        for part in says.iter().chain(&["broken messages: no NCCL:", "hint:"]) {
            assert!(page.contains(part), "no {part:?} in {}", outcome.stdout);
        }
    };
    check(nothing.path(), &[], &["libcuda.so.1 was not found", "LD_LIBRARY_PATH", "580 or later"]);
    check(driver_alone.path(), &[], &["libnccl.so.2 was not found", "pip install nvidia-nccl-cu13==2.28.9"]);
    check(doubles(), &[("FAKE_NCCL_VERSION", "21805")], &["NCCL 2.18.5 is too old: 2.19 or later"]);
    check(doubles(), &[("FAKE_CUDA_DEVICES", "0")], &["no GPU is", "nvidia-smi"]);
    check(doubles(), &[("FAKE_CUDA_INIT", "803")], &["does not start: an error of the double"]);
}

/// Two ranks on one GPU, and ranks whose launcher shows each another one.
#[test]
fn which_gpu_is_whose() {
    let one = [("CUDA_VISIBLE_DEVICES", "1")];
    let outcome = doctor(Ranks::Mpi(2), doubles(), &one, &["--comm", "nccl", "--quick"]).expect_code(1);
    let page = flat(&outcome);
    assert!(
        page.contains("ranks 0 and 1 on ") && page.contains("would both compute on GPU 0 (double 1)"),
        "{page}"
    );
    assert!(page.contains("CUDA_VISIBLE_DEVICES is \"1\"") && page.contains("--share-gpu"), "{page}");
    let outcome =
        doctor(Ranks::Mpi(2), doubles(), &one, &["--comm", "nccl", "--share-gpu", "--quick"]).expect_code(1);
    assert!(flat(&outcome).contains("share a GPU, which NCCL refuses"), "{}", outcome.stdout);
    let outcome = doctor(Ranks::Mpi(2), doubles(), &one, &["--share-gpu", "--quick"]).expect_code(0);
    assert!(flat(&outcome).contains("mpi: ranks 0 and 1 share a GPU"), "{}", outcome.stdout);
    // Each rank sees one of its own as number 0.
    let output = scratch();
    let mut each: Command = command::<&str>(Ranks::Mpi(1), &[]);
    let args = ["doctor", "--quick", "--output", output.path().to_str().unwrap(), "--comm", "nccl"];
    on_doubles(&mut each, doubles(), &[]);
    let shown = |device: &str| format!("CUDA_VISIBLE_DEVICES={device}");
    let mut command = Command::new(each.get_program());
    command.args(["--oversubscribe", "-n", "1", "env", &shown("2")]).arg(program()).args(args);
    command.args([":", "-n", "1", "env", &shown("0")]).arg(program()).args(args);
    each.get_envs().for_each(|(name, value)| {
        value.map(|value| command.env(name, value));
    });
    let outcome = Running::start(command).finish().expect_code(0);
    assert!(outcome.stdout.contains("GPU 0 (double 2)") && outcome.stdout.contains("GPU 0 (double 0)"));
}

/// An error that comes in the background ends all ranks.
#[test]
fn nccl_fails_in_the_middle() {
    let check = |outcome: &Outcome, waiting_in: &str| {
        assert!(!matches!(outcome.code, None | Some(0)), "{}", outcome.stderr);
        let says = format!("messages between GPUs failed ({waiting_in}");
        assert!(outcome.stderr.contains(&says), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("remote process exited (said by the double)"), "{}", outcome.stderr);
    };
    for operation in ["1", "40"] {
        let variables = [("FAKE_NCCL_FAIL_AT", operation)];
        check(&doctor(Ranks::Mpi(2), doubles(), &variables, &["--comm", "nccl", "--quick"]), "all-");
    }
    // From device to device, where nothing else is said for long.
    let folder = scratch();
    let mut command = training(
        Ranks::Mpi(2),
        folder.path(),
        &["--comm", "nccl", "--pp", "2", "--accumulation-steps", "60"],
    );
    on_doubles(&mut command, doubles(), &[("FAKE_NCCL_FAIL_AT", "50")]);
    check(&Running::start(command).finish(), "");
}

/// `args` on so many ranks, where a process that dies is not noticed by the launcher, and rank 1 dies at its operation
/// number `operation`: the others have to notice.
fn dies(ranks: usize, operation: &str, args: &[OsString]) {
    let folder = scratch();
    let log = folder.path().join("log");
    let outliving = "\"$0\" \"$@\"; code=$?; [ $code -lt 128 ] || sleep 60; exit $code";
    let mut command = in_shell(ranks, outliving, args);
    let variables = [("FAKE_NCCL_DIE_AT", operation), ("FAKE_CUDA_LOG", log.to_str().unwrap())];
    on_doubles(&mut command, doubles(), &variables);
    let outcome = Running::start(command).finish();
    assert!(!matches!(outcome.code, None | Some(0)), "{}", outcome.stderr);
    let said = outcome.stderr.matches("rank 1 on ").count();
    assert_eq!(said, 1, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("is gone while others wait for it"), "{}", outcome.stderr);
    assert!(std::fs::read_to_string(log).unwrap().contains("aborted"));
}

/// A rank dies without a word, and the launcher does not notice: the others do.
#[test]
fn a_rank_dies() {
    let output = scratch();
    let doctor = ["doctor", "--quick", "--comm", "nccl", "--output"].map(OsString::from);
    dies(3, "30", &[&doctor[..], &[output.path().into()]].concat());
    // In the middle of a step whose weights and activations go from device to device.
    for mesh in [["--dp-shard", "3"], ["--pp", "3"]] {
        let output = scratch();
        let args = training_args(output.path(), &[&["--comm", "nccl"], &mesh[..]].concat());
        dies(3, "25", &args);
    }
}
