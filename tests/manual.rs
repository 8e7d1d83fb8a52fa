//! What is made of the command line's definitions: help, completions, manual pages.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::{alone, check_message, scratch, snapshot};

/// Every command, with those of its own.
const COMMANDS: [&str; 31] = [
    "metamath",
    "train",
    "plan",
    "plan metamath",
    "plan train",
    "config",
    "config metamath",
    "config train",
    "eval",
    "score",
    "report",
    "collect",
    "merge",
    "random-model",
    "inspect",
    "inspect partition",
    "inspect adapter",
    "inspect checkpoint",
    "inspect model",
    "status",
    "watch",
    "checkpoint",
    "stop",
    "log-level",
    "bench",
    "bench kernels",
    "bench step",
    "gpu-check",
    "doctor",
    "completions",
    "man",
];

#[test]
fn every_command_has_help() {
    let top = alone(&["--help"]).expect_code(0).stdout;
    for command in COMMANDS {
        let words: Vec<&str> = command.split(' ').collect();
        let outcome = alone(&[&words[..], &["--help"]].concat()).expect_code(0);
        let usage = format!("Usage: gpart-dist {command}");
        assert!(outcome.stdout.contains(&usage), "no {usage:?} in\n{}", outcome.stdout);
        assert!(outcome.stderr.is_empty(), "{}", outcome.stderr);
        assert!(outcome.stdout.lines().all(|line| line.chars().count() <= 100), "{}", outcome.stdout);
        assert!(top.contains(&format!("\n  {} ", words[0])), "{} is not in\n{top}", words[0]);
    }
}

/// Whether a program is there; says so loudly where it is not.
fn has(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output().unwrap();
    if !found.status.success() {
        let rule = "*".repeat(100);
        #[allow(clippy::print_stderr, reason = "a check that was not made must say so")]
        {
            eprintln!("{rule}\nSKIPPED: {program} is not installed here\n{rule}");
        }
    }
    found.status.success()
}

/// What a program says to a text on its standard input.
#[track_caller]
fn fed(command: &mut Command, input: &str) -> String {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    let _ = writer.join();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{command:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn completions_are_scripts() {
    for (shell, check) in [
        ("bash", Some(["bash", "-n"])),
        ("zsh", Some(["zsh", "-n"])),
        ("fish", Some(["fish", "--no-execute"])),
        ("elvish", None),
        ("powershell", None),
    ] {
        let script = alone(&["completions", shell]).expect_code(0).stdout;
        for word in ["metamath", "assignment-backend", "completions", "tokens-per-second"] {
            assert!(script.contains(word), "{shell}: no {word}");
        }
        if let Some([program, flag]) = check.filter(|[program, _]| has(program)) {
            fed(Command::new(program).arg(flag), &script);
        }
    }
    let script = alone(&["completions", "bash"]).expect_code(0).stdout;
    // Asks the function that the script registers.
    let asked = "f=$(complete -p gpart-dist); f=${f##*-F }; COMP_WORDS=(gpart-dist merge --ad); COMP_CWORD=2; \
                 \"${f%% *}\" gpart-dist --ad merge; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let answer = fed(&mut Command::new("bash"), &format!("{script}\n{asked}\n"));
    assert_eq!(answer.trim(), "--adapter");
    check_message("no shell", &alone(&["completions", "tcsh"]), 2, &["tcsh"]);
}

#[test]
fn manual_pages_are_pages() {
    let folder = scratch();
    let pages = folder.path().join("share/man/man1");
    let args = ["man", "--output", pages.to_str().unwrap()];
    alone(&args).expect_code(0);
    let names: BTreeSet<String> = std::fs::read_dir(&pages)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let mut expected: BTreeSet<String> =
        COMMANDS.iter().map(|command| format!("gpart-dist-{}.1", command.replace(' ', "-"))).collect();
    expected.insert("gpart-dist.1".to_owned());
    let missing: Vec<_> = expected.difference(&names).collect();
    assert!(missing.is_empty(), "{missing:?} are not among {names:?}");
    let stray: Vec<_> = names.difference(&expected).filter(|name| !name.contains("help")).collect();
    assert!(stray.is_empty(), "{stray:?}");
    let page = std::fs::read_to_string(pages.join("gpart-dist-metamath.1")).unwrap();
    assert!(page.contains(".TH ") && page.contains("assignment\\-backend"));
    if has("groff") {
        for name in &names {
            let page = std::fs::read_to_string(pages.join(name)).unwrap();
            let text = fed(Command::new("groff").args(["-Kutf8", "-man", "-Tutf8", "-ww", "-P-cbou"]), &page);
            assert!(text.contains("NAME") && text.contains("SYNOPSIS"), "{name}: {text}");
        }
    }
    // Once more, over the old ones; and where no folder can be.
    let before = snapshot(&pages);
    alone(&args).expect_code(0);
    assert_eq!(before, snapshot(&pages));
    let file = pages.join("gpart-dist.1/below");
    check_message("man", &alone(&["man", "--output", file.to_str().unwrap()]), 2, &["manual pages", "below"]);
    assert!(!Path::new(&file).exists());
}
