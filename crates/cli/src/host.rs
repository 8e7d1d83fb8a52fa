//! What this machine has left.

use std::path::Path;

/// Bytes of memory that a process may still take: what the system calls available, or what is left of its control
/// group, whichever is less. None where the system does not tell.
pub fn available_memory() -> Option<u64> {
    let system = entry(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")?;
    Some(of_control_groups(left).map_or(system, |group| group.min(system)))
}

/// Bytes of memory that this machine has.
pub fn total_memory() -> Option<u64> {
    entry(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")
}

/// The tightest limit of this process's control groups, bytes.
pub fn memory_limit() -> Option<u64> {
    of_control_groups(|folder, [limit, ..]| {
        let text = std::fs::read_to_string(format!("{folder}/{limit}")).ok()?;
        // Version 1 writes a number near 2^63 where there is no limit.
        text.trim().parse().ok().filter(|limit| *limit < 1 << 60)
    })
}

/// Bytes of memory that this process has, and the most that it had.
pub fn own_memory() -> Option<(u64, u64)> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    Some((entry(&status, "VmRSS:")?, entry(&status, "VmHWM:")?))
}

/// A line of `/proc/meminfo`, in bytes.
fn entry(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The least that `read` finds in this process's control group, version 2 or 1, and those above it: a limit of any of
/// them holds, and schedulers set it on the job, not on the step.
fn of_control_groups(read: impl Fn(&str, [&str; 3]) -> Option<u64>) -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let v2 = groups.lines().find_map(|line| line.strip_prefix("0::"));
    let v1 = groups.lines().find_map(|line| line.split_once(":memory:").map(|(_, path)| path));
    let of_all = |root: &str, path: &str, names: [&str; 3]| {
        let groups = Path::new(path).ancestors().map(|group| format!("{root}{}", group.display()));
        groups.filter_map(|folder| read(&folder, names)).min()
    };
    let of_v2 =
        v2.and_then(|path| of_all("/sys/fs/cgroup", path, ["memory.max", "memory.current", "inactive_file"]));
    let of_v1 = v1.and_then(|path| {
        let names = ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"];
        of_all("/sys/fs/cgroup/memory", path, names)
    });
    of_v2.into_iter().chain(of_v1).min()
}

/// What is left of a control group's limit. Pages of files that are merely cached count as left: the system takes them
/// back.
fn left(folder: &str, [limit, used, cached]: [&str; 3]) -> Option<u64> {
    let read = |name: &str| std::fs::read_to_string(format!("{folder}/{name}")).ok();
    let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
    let statistics = read("memory.stat").unwrap_or_default();
    let cached = statistics.lines().find_map(|line| line.strip_prefix(cached)?.trim().parse::<u64>().ok());
    Some(number(limit)?.saturating_sub(number(used)?.saturating_sub(cached.unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read() {
        assert_eq!(
            entry("MemTotal: 9 kB\nMemAvailable:    2048 kB\nBuffers: 1 kB\n", "MemAvailable:"),
            Some(2 << 20)
        );
        assert_eq!(entry("MemTotal: 9 kB\n", "MemAvailable:"), None);
    }

    #[test]
    fn this_process_has_memory_and_had_more() {
        assert!(own_memory().is_some_and(|(now, peak)| 0 < now && now <= peak));
    }
}
