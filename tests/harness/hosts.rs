//! Two hosts on one machine: a network namespace each, a line with delay and rate between them, and `mpirun` over both.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;

use super::relay::{Link, Relay, open_tun};

/// Addresses of the two hosts. Every pair has the same, since nothing leaves its namespaces.
pub const ADDRESSES: [&str; 2] = ["10.77.0.1", "10.77.0.2"];
/// The device at each end of the line.
pub const DEVICE: &str = "line0";
/// What namespaces are called: this, the process that made them, a number, a letter.
const PREFIX: &str = "gpart-e2e-";

/// What the hosts' network is set to. Buffers of more than rate × round trip (6 MB at 1 Gb/s and 50 ms), and a window
/// that a computing pause does not shrink.
const SETTINGS: [(&str, &str); 6] = [
    ("ipv4/tcp_slow_start_after_idle", "0"),
    ("ipv4/tcp_rmem", "4096 131072 67108864"),
    ("ipv4/tcp_wmem", "4096 16384 67108864"),
    ("ipv4/tcp_no_metrics_save", "1"),
    // Cubic takes a thread that is late on a busy machine for a full line, and stops growing its window.
    ("ipv4/tcp_congestion_control", "reno"),
    ("ipv6/conf/all/disable_ipv6", "1"),
];

/// Two hosts. Dropping them ends whatever still runs there and removes them.
pub struct Hosts {
    /// Namespaces, and host names of what runs in them.
    names: [String; 2],
    /// Holds the script with which mpirun reaches the other host.
    folder: TempDir,
    relay: Option<Relay>,
}

impl Hosts {
    /// Two hosts with a line between them, after removing what killed runs left. None, with a loud message, where
    /// namespaces cannot be made.
    pub fn start(link: Link) -> Option<Self> {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        remove_leftovers();
        let base = format!("{PREFIX}{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let names = ["a", "b"].map(|letter| format!("{base}-{letter}"));
        // From here on dropping removes what there is.
        let mut hosts = Self { names, folder: super::scratch(), relay: None };
        let ends = hosts.names.iter().zip(ADDRESSES).map(|(name, address)| host(name, address, link));
        let ends: Vec<File> = match ends.collect() {
            Ok(ends) => ends,
            Err(reason) => {
                let rule = "!".repeat(100);
                #[allow(clippy::print_stderr, reason = "a test that did not run must say so")]
                {
                    eprintln!("{rule}\nSKIPPED: no second host can be made here ({reason})\n{rule}");
                }
                return None;
            }
        };
        hosts.relay = Some(Relay::start(ends.try_into().unwrap(), link));
        hosts.write_agent("--uts", "");
        Some(hosts)
    }

    /// What the second host sees as `folder` is `own` from now on: a disk that the first one does not share.
    pub fn give_second_its_own(&self, folder: &Path, own: &Path) {
        let mount = format!("mount --bind {} {} && ", own.display(), folder.display());
        self.write_agent("--uts --mount", &mount);
    }

    /// `PROGRAM`, still without arguments, on one of the hosts: 0 or 1.
    pub fn on(&self, host: usize, program: impl AsRef<OsStr>) -> Command {
        let name = &self.names[host];
        let mut command = Command::new("ip");
        // A host name of its own: by that MPI tells hosts apart, and names the folder of its session.
        command.args(["netns", "exec", name, "unshare", "--uts", "sh", "-c"]);
        command.args(["hostname \"$0\" && exec \"$@\"", name]).arg(program);
        command
    }

    /// The command that is given, as rank 0 on the first host and rank 1 on the second. `more` goes to mpirun.
    pub fn mpirun(&self, more: &[&str], ranked: &Command) -> Command {
        let mut command = self.on(0, "mpirun");
        command.args(["-n", "2", "--host"]).arg(ADDRESSES.map(|address| format!("{address}:1")).join(","));
        for (name, value) in [
            ("plm_rsh_agent", self.agent().to_str().unwrap()),
            // The agents stay, so that the other host's processes are mpirun's descendants and end with it.
            ("orte_leave_session_attached", "1"),
            ("btl", "tcp,self"),
            ("btl_tcp_if_include", DEVICE),
            ("oob_tcp_if_include", DEVICE),
        ] {
            command.args(["--mca", name, value]);
        }
        // Each host would bind its rank to its first core, which is the same one.
        command.args(["--bind-to", "none"]).args(more).arg(ranked.get_program()).args(ranked.get_args());
        if let Some(directory) = ranked.get_current_dir() {
            command.current_dir(directory);
        }
        for (name, value) in ranked.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
        command
    }

    /// Names of the two hosts.
    pub fn names(&self) -> &[String; 2] {
        &self.names
    }

    fn agent(&self) -> PathBuf {
        self.folder.path().join("agent")
    }

    /// Writes what stands for `ssh`: it is called with an address and a command line for the shell there. A rank runs in
    /// `namespaces` of its own, after `first` was done there.
    fn write_agent(&self, namespaces: &str, first: &str) {
        let [a, b] = &self.names;
        let [_, address] = ADDRESSES;
        let script = format!(
            "#!/bin/sh\ncase $1 in {address}) host={b} ;; *) host={a} ;; esac\nshift\n\
             exec ip netns exec \"$host\" unshare {namespaces} sh -c '{first}hostname \"$0\" && eval \"$*\"' \"$host\" \"$@\"\n"
        );
        std::fs::write(self.agent(), script).unwrap();
        std::fs::set_permissions(self.agent(), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        self.names.iter().for_each(|name| remove(name));
        self.relay = None;
    }
}

/// Makes a namespace and its end of the line.
fn host(name: &str, address: &str, link: Link) -> Result<File, String> {
    ip(&["netns", "add", name])?;
    ip(&["-n", name, "link", "set", "lo", "up"])?;
    let tun = in_namespace(name, || {
        for (setting, value) in SETTINGS {
            // What this kernel does not have stays as it is; the tests that measure would show it.
            let _ = std::fs::write(Path::new("/proc/sys/net").join(setting), value);
        }
        open_tun(DEVICE)
    })
    .map_err(|error| format!("tun device of {name}: {error}"))?;
    ip(&["-n", name, "address", "add", &format!("{address}/24"), "dev", DEVICE])?;
    // A queue that is never full: the line loses nothing.
    let mtu = link.mtu.to_string();
    ip(&["-n", name, "link", "set", DEVICE, "mtu", &mtu, "txqueuelen", "20000", "up"])?;
    Ok(tun)
}

/// Runs something on a thread of its own inside a network namespace.
fn in_namespace<T: Send>(name: &str, inside: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let namespace = File::open(Path::new("/run/netns").join(name))?;
    let enter_and_run = || {
        // SAFETY: changes the network namespace of this thread, which ends here; touches no memory.
        match unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } {
            0 => inside(),
            _ => Err(io::Error::last_os_error()),
        }
    };
    std::thread::scope(|scope| scope.spawn(enter_and_run).join().unwrap())
}

fn ip(arguments: &[&str]) -> Result<String, String> {
    let command = || format!("ip {}", arguments.join(" "));
    let output = Command::new("ip").args(arguments).output().map_err(|e| format!("{}: {e}", command()))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!("{}: {}", command(), String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// Ends what runs in a namespace and removes it. Never panics: it runs while tests unwind.
fn remove(name: &str) {
    for pid in ip(&["netns", "pids", name]).unwrap_or_default().lines() {
        if let Ok(pid) = pid.trim().parse() {
            // SAFETY: `kill` touches no memory of ours; what runs in this namespace was started for a test.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }
    let _ = ip(&["netns", "delete", name]);
}

/// Removes the namespaces whose makers are dead.
fn remove_leftovers() {
    for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let maker = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if maker.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            remove(&name);
        }
    }
}
