//! Whether the kernel killed for lack of memory: what its counters and its log say.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Room for one record of the kernel's log.
const RECORD: usize = 8192;

/// What the kernel had killed when the ranks were started.
#[derive(Debug)]
pub struct KillsBefore {
    /// Counters of control groups: only processes of ours count there.
    of_group: BTreeMap<PathBuf, u64>,
    /// The whole machine's counter.
    of_machine: Option<u64>,
    log: Option<File>,
}

/// What was killed since then.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kills {
    /// Processes that the kernel's log names; of the whole machine, by their numbers there.
    pub named: Vec<(i32, String)>,
    /// How many of this process's control groups.
    pub of_group: u64,
    /// How many of the whole machine.
    pub of_machine: u64,
}

impl KillsBefore {
    /// Looks.
    pub fn now() -> Self {
        Self { of_group: of_group(), of_machine: of_machine(), log: log() }
    }

    /// What has been killed since then.
    pub fn since(&mut self) -> Kills {
        let now = of_group();
        let more = |(path, before): (&PathBuf, &u64)| now.get(path)?.checked_sub(*before);
        let of_machine = of_machine().zip(self.of_machine);
        Kills {
            named: self.log.as_mut().map(named_in).unwrap_or_default(),
            of_group: self.of_group.iter().filter_map(more).max().unwrap_or(0),
            of_machine: of_machine.map_or(0, |(now, before)| now.saturating_sub(before)),
        }
    }
}

/// The counters of this process's control groups, of either version.
fn of_group() -> BTreeMap<PathBuf, u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let files = groups.lines().filter_map(|line| counter_file(line, Path::new("/sys/fs/cgroup")));
    files.filter_map(|file| Some((file.clone(), count_in(&std::fs::read_to_string(file).ok()?)?))).collect()
}

/// The file with the counter of a group, from a line of `/proc/self/cgroup`.
fn counter_file(line: &str, mounted: &Path) -> Option<PathBuf> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next()?, parts.next()?);
    let (roots, name): (&[&str], &str) = match controllers {
        "" => (&["", "unified"], "memory.events"),
        controllers if controllers.split(',').any(|one| one == "memory") => {
            (&["memory"], "memory.oom_control")
        }
        _ => return None,
    };
    // In a container the path may be that of the machine outside, while its own group is mounted at the top.
    let below = Path::new(path.trim_start_matches('/'));
    let folders = below.ancestors().flat_map(|path| roots.iter().map(move |root| Path::new(root).join(path)));
    folders.map(|folder| mounted.join(folder).join(name)).find(|file| file.exists())
}

/// The number after `oom_kill`.
fn count_in(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

fn of_machine() -> Option<u64> {
    count_in(&std::fs::read_to_string("/proc/vmstat").ok()?)
}

/// The kernel's log from now on, where it can be read.
fn log() -> Option<File> {
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let mut log = File::options().read(true).custom_flags(nonblocking).open("/dev/kmsg").ok()?;
    log.seek(SeekFrom::End(0)).ok()?;
    Some(log)
}

fn named_in(log: &mut File) -> Vec<(i32, String)> {
    let mut named = Vec::new();
    let mut record = vec![0; RECORD];
    loop {
        match log.read(&mut record) {
            Ok(0) => break,
            Ok(length) => named.extend(killed_in(&String::from_utf8_lossy(&record[..length]))),
            // Records were overwritten before they were read; those after them are there.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            Err(_) => break,
        }
    }
    named
}

/// Number and name of the process in `… Killed process 123 (name) …`.
fn killed_in(record: &str) -> Option<(i32, String)> {
    let (_, rest) = record.split_once("Killed process ")?;
    let (pid, rest) = rest.split_once(" (")?;
    Some((pid.trim().parse().ok()?, rest.split_once(')')?.0.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found() {
        let mounted = tempfile::tempdir().unwrap();
        let put = |path: &str| {
            let file = mounted.path().join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, "oom 3\noom_kill 2\noom_group_kill 0\n").unwrap();
            file
        };
        let (v1, v2) = (put("memory/a/memory.oom_control"), put("memory.events"));
        let found = |line: &str| counter_file(line, mounted.path());
        assert_eq!(found("4:memory:/a/b"), Some(v1.clone()));
        assert_eq!(found("0::/system.slice/x"), Some(v2));
        assert_eq!(found("3:cpu,cpuacct:/a"), None);
        assert_eq!(found("garbage"), None);
        assert_eq!(count_in(&std::fs::read_to_string(v1).unwrap()), Some(2));
    }

    #[test]
    fn the_log_names_processes() {
        let record = "3,1,2,-;Memory cgroup out of memory: Killed process 4321 (gpart-dist) total-vm:1kB\n";
        assert_eq!(killed_in(record), Some((4321, "gpart-dist".to_owned())));
        assert_eq!(killed_in("6,1,2,-;eth0: link up"), None);
    }

    #[test]
    fn nothing_was_killed_just_now() {
        // Other processes of the machine may be; those of this group are this test's.
        assert_eq!(KillsBefore::now().since().of_group, 0);
    }
}
