//! Shell completions and manual pages, made from the same definitions as the help.

use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::exit::Exit;
use crate::{Cli, fail};

/// Which shell.
#[derive(Args)]
pub struct CompletionsArgs {
    /// Shell that is to complete
    #[arg(value_enum)]
    shell: Shell,
}

/// Where to.
#[derive(Args)]
pub struct ManArgs {
    /// Folder that receives a page for each command, such as ~/.local/share/man/man1
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
}

/// A manual page that could not be written.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[error("cannot write manual pages to {}", folder.display())]
#[diagnostic(code(input::man_folder), help("choose a folder that you may write to"))]
struct CannotWrite {
    folder: PathBuf,
    source: std::io::Error,
}

/// Prints a completion script.
pub fn completions(args: &CompletionsArgs) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "gpart-dist", &mut script);
    let script = String::from_utf8_lossy(&script);
    // clap_complete 4.6 spells the hyphen of the program's name in two ways, and so bash would complete nothing
    // behind a command.
    let script = script.replace("gpart__subcmd__dist", "gpart__dist");
    crate::format::print(script.trim_end());
    Exit::Done
}

/// Writes the manual pages.
pub fn man(args: &ManArgs) -> Exit {
    let written = std::fs::create_dir_all(&args.output)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), &args.output));
    match written {
        Ok(()) => Exit::Done,
        Err(source) => fail(&CannotWrite { folder: args.output.clone(), source }),
    }
}
