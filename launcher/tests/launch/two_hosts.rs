//! Two hosts on one machine: a network namespace each, and a stand-in for ssh.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::Signal;

use crate::harness::{Running, Scratch, signal, wait_until};

const ADDRESSES: [&str; 2] = ["10.79.0.1", "10.79.0.2"];

/// Two hosts with a cable between them. Dropping them ends what runs there.
struct Hosts {
    names: [String; 2],
    agent: PathBuf,
    /// While this file is there, the second host answers nobody.
    down: PathBuf,
}

impl Hosts {
    /// None, with a loud message, where namespaces cannot be made.
    fn new(scratch: &Scratch) -> Option<Self> {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        // Devices have names of 15 letters at most.
        let base = format!("gl{}-{number}", std::process::id());
        let names = ["a", "b"].map(|letter| format!("{base}{letter}"));
        let hosts = Self { names, agent: scratch.path().join("agent"), down: scratch.path().join("down") };
        match hosts.make() {
            Ok(()) => Some(hosts),
            Err(reason) => {
                #[allow(clippy::print_stderr, reason = "a test that did not run must say so")]
                {
                    eprintln!("SKIPPED: no second host can be made here ({reason})");
                }
                None
            }
        }
    }

    fn make(&self) -> Result<(), String> {
        let [a, b] = &self.names;
        ip(&["netns", "add", a])?;
        ip(&["netns", "add", b])?;
        ip(&["-n", a, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", b])?;
        for (name, address) in self.names.iter().zip(ADDRESSES) {
            ip(&["-n", name, "address", "add", &format!("{address}/24"), "dev", "cable"])?;
            ip(&["-n", name, "link", "set", "cable", "up"])?;
            ip(&["-n", name, "link", "set", "lo", "up"])?;
        }
        let [_, address] = ADDRESSES;
        let script = format!(
            "#!/bin/sh\ncase $1 in {address}) host={b}; [ ! -e {} ] || {{ echo no route >&2; exit 255; }} ;; \
             *) host={a} ;; esac\nshift\n\
             exec ip netns exec \"$host\" unshare --uts sh -c 'hostname \"$0\" && eval \"$*\"' \"$host\" \"$@\"\n",
            self.down.display()
        );
        std::fs::write(&self.agent, script).map_err(|error| error.to_string())?;
        std::fs::set_permissions(&self.agent, std::fs::Permissions::from_mode(0o755))
            .map_err(|e| e.to_string())
    }

    /// The launcher on the first host, with a rank on each.
    fn start(&self, scratch: &Scratch, options: &[&str], requests: &[(&str, &str)]) -> Running {
        let hosts = ADDRESSES.map(|address| format!("{address}:1")).join(",");
        self.start_on(scratch, &hosts, options, requests)
    }

    /// The launcher on the first host, with ranks on these.
    fn start_on(
        &self,
        scratch: &Scratch,
        hosts: &str,
        options: &[&str],
        requests: &[(&str, &str)],
    ) -> Running {
        let options = [
            &["--hosts", hosts, "--mpi-arg=--mca", "--mpi-arg=oob_tcp_if_include", "--mpi-arg=cable"],
            options,
        ];
        let launcher = scratch.command(&options.concat(), &[]);
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.names[0], "unshare", "--uts", "sh", "-c"]);
        command.args(["hostname \"$0\" && exec \"$@\"", &self.names[0]]);
        command.arg(launcher.get_program()).args(launcher.get_args());
        command.env("OMPI_MCA_plm_rsh_agent", &self.agent).envs(requests.iter().copied());
        Running::start(command)
    }

    /// The second host is gone.
    fn lose_second(&self) {
        std::fs::write(&self.down, "").unwrap();
        kill_all(&self.names[1]);
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in &self.names {
            kill_all(name);
            let _ = ip(&["netns", "delete", name]);
            // Hosts of these names are never seen again, so nobody else would remove what MPI left.
            let user = rustix::process::geteuid().as_raw();
            let _ = std::fs::remove_dir_all(std::env::temp_dir().join(format!("ompi.{name}.{user}")));
        }
    }
}

fn kill_all(name: &str) {
    let pids = ip(&["netns", "pids", name]).unwrap_or_default();
    pids.lines().filter_map(|pid| pid.trim().parse().ok()).for_each(|pid| signal(pid, Signal::KILL));
}

fn ip(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("ip").args(arguments).output().map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

/// Requests go to ranks of the other host by name, as settings of gpart-dist do.
const LONG: [(&str, &str); 2] = [("STAND_IN_STEPS", "40"), ("STAND_IN_MILLISECONDS", "40")];

#[test]
fn ranks_of_both_report_over_tls() {
    let scratch = Scratch::new();
    let Some(hosts) = Hosts::new(&scratch) else { return };
    let options = ["--env", "STAND_IN_STEPS", "--env", "STAND_IN_MILLISECONDS"];
    let running = hosts.start(&scratch, &options, &LONG);
    wait_until(|| scratch.steps() >= 3);
    let text = std::fs::read_to_string(scratch.output().join("control.json")).unwrap();
    let endpoint: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(endpoint["address"].as_str().unwrap().starts_with("10.79.0.1:"), "{text}");
    assert!(endpoint["certificate"].as_str().unwrap().contains("BEGIN CERTIFICATE"));
    // A stop reaches rank 0, and rank 1 on the other host through it.
    running.signal(Signal::TERM);
    running
        .finish()
        .expect_code(75)
        .expect_text("2 ranks on 2 hosts")
        .expect_text("[rank 1] hello of 1 of 2");
    assert!(scratch.steps() < 40);
}

#[test]
fn a_run_goes_on_without_a_lost_host() {
    let scratch = Scratch::new();
    let Some(hosts) = Hosts::new(&scratch) else { return };
    let options = ["--env", "STAND_IN_STEPS", "--env", "STAND_IN_MILLISECONDS"];
    let running = hosts.start(&scratch, &options, &LONG);
    wait_until(|| scratch.steps() >= 3);
    hosts.lose_second();
    let outcome = running.finish().expect_code(0);
    outcome
        .expect_text("10.79.0.2 does not answer any more; going on with 1 of 2 ranks")
        .expect_text("hello of 0 of 1, attempt 2");
    assert_eq!(scratch.steps(), 40);
}

/// The launcher's own host may not be one of them.
#[test]
fn without_hosts_there_is_no_run() {
    let scratch = Scratch::new();
    let Some(hosts) = Hosts::new(&scratch) else { return };
    let list = format!("{}:2", ADDRESSES[1]);
    let options = ["--env", "STAND_IN_STEPS", "--env", "STAND_IN_MILLISECONDS"];
    let running = hosts.start_on(&scratch, &list, &options, &LONG);
    wait_until(|| scratch.steps() >= 3);
    hosts.lose_second();
    let outcome = running.finish().expect_code(1);
    outcome
        .expect_text("10.79.0.2 does not answer any more, and 0 ranks are left")
        .expect_no_text("attempt 2");
}

#[test]
fn a_killed_launcher_leaves_no_rank_on_the_other_host() {
    let scratch = Scratch::new();
    let Some(hosts) = Hosts::new(&scratch) else { return };
    let options = ["--env", "STAND_IN_STEPS", "--env", "STAND_IN_MILLISECONDS"];
    let running =
        hosts.start(&scratch, &options, &[("STAND_IN_STEPS", "10000"), ("STAND_IN_MILLISECONDS", "20")]);
    wait_until(|| scratch.steps() >= 3);
    running.signal(Signal::KILL);
    scratch.expect_no_process_within(std::time::Duration::from_secs(5));
}

#[test]
fn a_loopback_coordinator_is_refused() {
    let scratch = Scratch::new();
    let Some(hosts) = Hosts::new(&scratch) else { return };
    let running = hosts.start(&scratch, &["--control-listen", "127.0.0.1:0"], &[]);
    running.finish().expect_code(2).expect_text("could not reach it").expect_text("hint: ");
    assert!(!scratch.output().exists());
}

/// The manifest for Kubernetes, with the launcher's command and environment as they stand there. What a cluster gives is
/// played: the operator's list of workers, ssh between them, the image's programs on PATH.
#[test]
fn the_manifests_command_runs_on_two_hosts() {
    let scratch = Scratch::new();
    let Some(hosts) = Hosts::new(&scratch) else { return };
    let image = scratch.path().join("image");
    std::fs::create_dir(&image).unwrap();
    std::fs::copy(crate::harness::launcher(), image.join("gpart-launch")).unwrap();
    std::fs::copy(crate::harness::stand_in(), image.join("gpart-dist")).unwrap();
    let (list, output) = (scratch.path().join("hostfile"), scratch.output());
    std::fs::write(&list, ADDRESSES.map(|address| format!("{address} slots=1\n")).concat()).unwrap();
    let mut printed = Command::new(image.join("gpart-launch"));
    printed.args([
        "kubernetes",
        "--image",
        "r/g:1",
        "--workers",
        "2",
        "--gpus-per-worker",
        "1",
        "--claim",
        "mine",
    ]);
    let printed = printed.args(["--", "metamath", "--output"]).arg(&output).output().unwrap();
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    let manifest: serde_json::Value = serde_norway::from_slice(&printed.stdout).unwrap();
    let pod = &manifest["spec"]["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]["containers"][0];
    let words = |key: &str| -> Vec<String> {
        let words = pod[key].as_array().unwrap().iter();
        words
            .map(|word| word.as_str().unwrap().replace("/etc/mpi/hostfile", list.to_str().unwrap()))
            .collect()
    };
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &hosts.names[0], "unshare", "--uts", "sh", "-c"]);
    command.args(["hostname \"$0\" && exec \"$@\"", &hosts.names[0]]);
    command.args(words("command")).args(words("args"));
    for variable in pod["env"].as_array().unwrap() {
        command.env(variable["name"].as_str().unwrap(), variable["value"].as_str().unwrap());
    }
    command.env("PATH", format!("{}:{}", image.display(), std::env::var("PATH").unwrap()));
    command.env("OMPI_MCA_plm_rsh_agent", &hosts.agent).env("OMPI_MCA_oob_tcp_if_include", "cable");
    let outcome = Running::start(command).finish().expect_code(0);
    outcome.expect_text("2 ranks on 2 hosts").expect_text("[rank 1] hello of 1 of 2");
    assert!(scratch.steps() > 0);
}
