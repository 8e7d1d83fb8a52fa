//! The hosts of a run: read, looked up, told from this one.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::error::LaunchError;

/// Any port will do to look a name up.
const ANY_PORT: u16 = 0;
/// How long `ssh` may take to reach a host.
const REACH_SECONDS: u32 = 10;
/// How long anything may take that is used in its place.
const REACH_TIMEOUT: Duration = Duration::from_secs(20);

/// A host, and how many ranks it takes where that was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its name or address.
    pub name: String,
    /// How many ranks it takes.
    pub slots: Option<usize>,
}

/// Reads `a:4,b:4`, or `a,b`.
pub fn of_list(text: &str) -> Result<Vec<Host>, LaunchError> {
    let place = || "--hosts".to_owned();
    let mut hosts = Vec::new();
    for entry in text.split(',').map(str::trim) {
        add(&mut hosts, name_and_slots(entry, &place)?);
    }
    Ok(hosts)
}

/// Reads a file of hosts as Open MPI (`a slots=4`) or Hydra (`a:4`) have it; `#` begins a comment.
pub fn of_file(path: &Path) -> Result<Vec<Host>, LaunchError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| LaunchError::HostFile { path: path.to_owned(), source })?;
    let mut hosts = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let place = || format!("{}:{}", path.display(), number + 1);
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(first) = words.next() else { continue };
        let mut host = name_and_slots(first, &place)?;
        for word in words {
            match word.split_once('=') {
                Some(("slots", value)) => host.slots = Some(slots(value, &place)?),
                // A limit for oversubscription, which is not wanted across hosts.
                Some(("max_slots" | "max-slots", _)) => {}
                _ => return Err(LaunchError::HostEntry { place: place(), entry: line.trim().to_owned() }),
            }
        }
        add(&mut hosts, host);
    }
    match hosts.is_empty() {
        true => Err(LaunchError::NoHosts { path: path.to_owned() }),
        false => Ok(hosts),
    }
}

/// A host that is named twice has the slots of both.
fn add(hosts: &mut Vec<Host>, host: Host) {
    match hosts.iter_mut().find(|known| known.name == host.name) {
        Some(known) => known.slots = Some(known.slots.unwrap_or(1) + host.slots.unwrap_or(1)),
        None => hosts.push(host),
    }
}

fn name_and_slots(entry: &str, place: &dyn Fn() -> String) -> Result<Host, LaunchError> {
    let bad = || LaunchError::HostEntry { place: place(), entry: entry.to_owned() };
    let (name, count) = match entry.strip_prefix('[') {
        // An IPv6 address.
        Some(rest) => {
            let (address, rest) = rest.split_once(']').ok_or_else(bad)?;
            (address, rest.strip_prefix(':'))
        }
        None if entry.matches(':').count() > 1 => (entry, None),
        None => entry.split_once(':').map_or((entry, None), |(name, count)| (name, Some(count))),
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-_.:%".contains(c);
    if name.is_empty() || name.starts_with('-') || !name.chars().all(is_name) {
        return Err(bad());
    }
    let slots = count.map(|count| slots(count, place)).transpose()?;
    Ok(Host { name: name.to_owned(), slots })
}

fn slots(text: &str, place: &dyn Fn() -> String) -> Result<usize, LaunchError> {
    let count = text.parse().ok().filter(|count| *count > 0);
    count.ok_or_else(|| LaunchError::HostEntry { place: place(), entry: text.to_owned() })
}

/// Looks every name up, and refuses those that nothing is known of, all at once.
pub fn check_names(hosts: &[Host]) -> Result<(), LaunchError> {
    let unknown = hosts.iter().filter(|host| address_of(&host.name).is_none());
    let unknown: Vec<&str> = unknown.map(|host| host.name.as_str()).collect();
    match unknown.is_empty() {
        true => Ok(()),
        false => Err(LaunchError::UnknownHosts { names: unknown.join(", ") }),
    }
}

/// Refuses hosts that cannot be reached, all at once.
pub fn check_reach(hosts: &[Host], agent: &[String]) -> Result<(), LaunchError> {
    let failures = unreachable(hosts, agent);
    match failures.is_empty() {
        true => Ok(()),
        false => {
            let lines = failures.iter().map(|(name, why)| format!("\n  {name}: {why}")).collect::<String>();
            Err(LaunchError::UnreachableHosts { lines })
        }
    }
}

/// Tries to run nothing on every other host, as mpirun will to start its daemons; gives the hosts where that fails, and
/// why. `agent` is the words of the command that mpirun reaches hosts with.
pub fn unreachable(hosts: &[Host], agent: &[String]) -> Vec<(String, String)> {
    let Some((program, arguments)) = agent.split_first() else { return Vec::new() };
    let try_one = |host: &Host| -> Option<(String, String)> {
        let mut command = Command::new(program);
        command.args(arguments);
        if Path::new(program).file_name().is_some_and(|name| name == "ssh") {
            command.args(["-o", "BatchMode=yes", "-o", &format!("ConnectTimeout={REACH_SECONDS}")]);
        }
        command.arg(&host.name).arg("true");
        let failure = failure_of(command, REACH_TIMEOUT)?;
        Some((host.name.clone(), format!("{program}: {failure}")))
    };
    let others: Vec<&Host> = hosts.iter().filter(|host| !is_this_host(&host.name)).collect();
    std::thread::scope(|scope| {
        let tries: Vec<_> = others.into_iter().map(|host| scope.spawn(move || try_one(host))).collect();
        tries.into_iter().filter_map(|one| one.join().ok().flatten()).collect()
    })
}

/// Runs a command; none if it succeeds in time.
fn failure_of(mut command: Command, timeout: Duration) -> Option<String> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Some(error.to_string()),
    };
    let begun = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if begun.elapsed() < timeout => std::thread::sleep(Duration::from_millis(20)),
            _ => {
                let _ = child.kill().and_then(|()| child.wait());
                return Some(format!("no answer within {} s", timeout.as_secs()));
            }
        }
    };
    if status.success() {
        return None;
    }
    let mut said = String::new();
    if let Some(stderr) = child.stderr.take() {
        // More than a few lines would only hide what matters.
        let _ = stderr.take(1 << 12).read_to_string(&mut said);
    }
    let said = said.trim().replace('\n', "; ");
    Some(if said.is_empty() { status.to_string() } else { said })
}

/// An address of a name.
pub fn address_of(name: &str) -> Option<IpAddr> {
    if let Ok(address) = name.parse() {
        return Some(address);
    }
    (name, ANY_PORT).to_socket_addrs().ok()?.next().map(|found| found.ip())
}

/// Whether a name means this host: an address is ours if we can listen on it.
pub fn is_this_host(name: &str) -> bool {
    is_same_name(name, &own_name())
        || address_of(name).is_some_and(|address| TcpListener::bind((address, ANY_PORT)).is_ok())
}

/// Whether two names are those of one host: one may lack its domain.
pub fn is_same_name(one: &str, other: &str) -> bool {
    let first_part = |name: &str| name.split('.').next().unwrap_or(name).to_owned();
    let is_address = |name: &str| name.parse::<IpAddr>().is_ok();
    one == other || (!is_address(one) && !is_address(other) && first_part(one) == first_part(other))
}

/// Name of this host.
pub fn own_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

/// The address under which the other hosts see this one: where packets to the first of them would leave from.
pub fn own_address(hosts: &[Host]) -> Option<IpAddr> {
    let other = hosts.iter().find(|host| !is_this_host(&host.name))?;
    let target = SocketAddr::new(address_of(&other.name)?, 9);
    let any: IpAddr = if target.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    // Connecting a datagram socket sends nothing.
    let socket = UdpSocket::bind((any, ANY_PORT)).ok()?;
    socket.connect(target).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

/// Whether ranks run on more than this host.
pub fn has_others(hosts: &[Host]) -> bool {
    let names: BTreeSet<&str> = hosts.iter().map(|host| host.name.as_str()).collect();
    names.into_iter().any(|name| !is_this_host(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, slots: impl Into<Option<usize>>) -> Host {
        Host { name: name.to_owned(), slots: slots.into() }
    }

    #[test]
    fn lists() {
        assert_eq!(of_list("a:4,b").unwrap(), [host("a", 4), host("b", None)]);
        assert_eq!(of_list("a,a:2").unwrap(), [host("a", 3)]);
        assert_eq!(of_list("[fe80::1]:2,10.0.0.1:1").unwrap(), [host("fe80::1", 2), host("10.0.0.1", 1)]);
        for bad in ["", "a:", "a:0", "a:x", "a,,b", "a b", "-oProxyCommand=x", "a;b", "[::1"] {
            let error = of_list(bad).unwrap_err().to_string();
            assert!(error.starts_with("--hosts: "), "{bad}: {error}");
        }
    }

    #[test]
    fn files() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "# ours\na slots=4 max_slots=8\n\nb:2 # old\nc\n").unwrap();
        assert_eq!(of_file(file.path()).unwrap(), [host("a", 4), host("b", 2), host("c", None)]);
        std::fs::write(file.path(), "a\nb slot=3\n").unwrap();
        let error = of_file(file.path()).unwrap_err().to_string();
        assert!(error.contains(":2: ") && error.contains("b slot=3"), "{error}");
        std::fs::write(file.path(), "# nothing\n").unwrap();
        assert!(of_file(file.path()).unwrap_err().to_string().contains("no host"));
    }

    #[test]
    fn names_are_looked_up() {
        assert!(is_this_host("localhost") && is_this_host("127.0.0.1") && is_this_host(&own_name()));
        assert!(!is_this_host("192.0.2.1"));
        assert!(!has_others(&[host("localhost", 1)]) && has_others(&[host("192.0.2.1", 1)]));
        let error = check_names(&[host("localhost", 1), host("nowhere.invalid", 1)]).unwrap_err();
        assert!(error.to_string().contains("nowhere.invalid"), "{error}");
        assert!(is_same_name("a", "a.example") && !is_same_name("10.0.0.1", "10.0.0.2"));
    }

    #[test]
    fn what_does_not_answer_is_not_waited_for() {
        let run = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            failure_of(command, Duration::from_millis(200))
        };
        assert_eq!(run("exit 0"), None);
        assert_eq!(run("echo no >&2; exit 3"), Some("no".to_owned()));
        assert!(run("exec sleep 60").is_some_and(|why| why.contains("no answer")));
    }
}
