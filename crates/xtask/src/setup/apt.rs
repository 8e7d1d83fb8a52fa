//! Installing Debian packages without a question, or saying exactly what a user without root has to do.

use std::process::Command;
use std::time::Instant;

use super::system::Part;
use crate::shell::{Failure, Outcome, output_of, run_quietly, say, which};

/// Installs the Debian packages of the parts.
///
/// # Errors
/// Without apt, root or a `sudo` that asks for nothing: what is missing and the ways to get it.
pub fn install(missing: &[Part]) -> Outcome {
    if which("apt-get").is_none() {
        return Err(by_hand(missing, "this is no Debian or Ubuntu"));
    }
    let Some(privileged) = privilege() else {
        return Err(by_hand(missing, "neither root nor `sudo -n` works here"));
    };
    let packages: Vec<&str> = missing.iter().flat_map(|part| part.debian).copied().collect();
    say("apt", format!("installing {} …", packages.join(" ")));
    let started = Instant::now();
    if let Err(failure) = run_quietly(apt(&privileged).arg("update")) {
        // One broken third-party source must not stop packages that the others have.
        say("apt", format!("going on with the package lists at hand: {}", failure.message));
    }
    let mut install = apt(&privileged);
    install.args(["install", "--yes", "--no-install-recommends"]).args(&packages);
    run_quietly(&mut install).map_err(|failure| Failure { hint: by_hand(missing, "").hint, ..failure })?;
    say("apt", format!("installed in {:.0} s", started.elapsed().as_secs_f64()));
    Ok(())
}

/// The parts that were installed and are still not found.
pub fn still_missing(missing: &[Part]) -> Failure {
    by_hand(missing, "the Debian packages are installed, but do not help")
}

/// The words before `apt-get` that give it root, if there are any.
fn privilege() -> Option<Vec<&'static str>> {
    if is_root() {
        return Some(Vec::new());
    }
    which("sudo")?;
    output_of(Command::new("sudo").args(["-n", "true"])).map(|_| vec!["sudo", "-n"])
}

/// Whether this process has user id 0.
pub fn is_root() -> bool {
    output_of(Command::new("id").arg("-u")).is_some_and(|id| id.trim() == "0")
}

fn apt(privileged: &[&str]) -> Command {
    let words = [privileged, &["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet"][..]].concat();
    let mut command = Command::new(words[0]);
    // A fresh cloud image runs its own upgrades for a while: wait for the lock.
    command.args(&words[1..]).args(["-o", "DPkg::Lock::Timeout=300"]);
    command
}

fn by_hand(missing: &[Part], why: &str) -> Failure {
    let lines = |part: &Part| format!("\n  {:<10} {}", part.name, part.needs);
    let list: String = missing.iter().map(lines).collect();
    let packages: Vec<&str> = missing.iter().flat_map(|part| part.debian).copied().collect();
    let hint = format!(
        "one of these, then the same command again\n  \
         administrator:  apt-get install {}\n  \
         cluster:        module load gcc openmpi llvm    (`module avail` has the names here; MPICC and \
         LIBCLANG_PATH are honoured)\n  \
         conda, no root: conda install -c conda-forge cxx-compiler openmpi libclang python pip",
        packages.join(" ")
    );
    Failure::with_hint(format!("missing system parts ({why}):{list}"), hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::system::{LIBCLANG, MPI};

    #[test]
    fn a_user_without_root_is_told_what_and_how() {
        let failure = by_hand(&[MPI, LIBCLANG], "neither root nor `sudo -n` works here");
        assert!(failure.message.contains("mpicc and mpirun"), "{}", failure.message);
        let hint = failure.hint.unwrap_or_default();
        assert!(hint.contains("apt-get install openmpi-bin libopenmpi-dev libclang-dev\n"), "{hint}");
        assert!(hint.contains("module load") && hint.contains("conda-forge"), "{hint}");
        assert_eq!(failure.code, 1);
    }
}
