//! The output folder: whether it can be written to, how fast, and what kind of disk it is on.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;

const LARGE: usize = 64 << 20;
/// A state of 524,288 numbers: 12 bytes each.
const STATE: usize = 6 << 20;
const STATES: usize = 20;
/// Most time for writing states.
const LONGEST: Duration = Duration::from_secs(15);

/// What was found. Times are of rank 0, which alone writes a run's state.
#[derive(Debug, Clone, Serialize)]
pub struct Disk {
    /// The folder that was asked for.
    pub folder: PathBuf,
    /// The folder that was written to: the same, or the nearest one above that is there.
    pub tried: PathBuf,
    pub file_system: String,
    /// Bytes.
    pub free: Option<u64>,
    /// Bytes a second of one large file, written and synchronised.
    pub write_speed: Option<f64>,
    /// Seconds to write, synchronise and rename a file like a run's state; the median.
    pub state_seconds: Option<f64>,
    /// What could not be done, and why.
    pub broken: Option<String>,
}

/// Writes to the folder, little where it is to be quick, and leaves nothing behind.
pub fn check(folder: &Path, quick: bool) -> Disk {
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let existing = absolute.ancestors().find(|folder| folder.exists()).unwrap_or(&absolute).to_owned();
    let mut disk = Disk {
        folder: folder.to_owned(),
        file_system: file_system(&existing),
        free: checkpoint::free_bytes(&existing),
        tried: existing,
        write_speed: None,
        state_seconds: None,
        broken: None,
    };
    if !disk.tried.is_dir() {
        disk.broken = Some(format!("{} is no folder", disk.tried.display()));
        return disk;
    }
    let path = disk.tried.join(format!(".gpart-doctor-{}", std::process::id()));
    let tried = measure(&path, quick, &mut disk);
    let _ = std::fs::remove_file(&path);
    let _ = std::fs::remove_file(renamed(&path));
    if let Err((what, error)) = tried {
        disk.broken = Some(format!("{what} in {}: {error}", disk.tried.display()));
    }
    disk
}

type Failure = (&'static str, std::io::Error);

fn renamed(path: &Path) -> PathBuf {
    path.with_extension("renamed")
}

fn measure(path: &Path, quick: bool, disk: &mut Disk) -> Result<(), Failure> {
    let file = File::create(path).map_err(|error| ("cannot make a file", error))?;
    file.try_lock().map_err(|error| ("cannot lock a file", error.into()))?;
    drop(file);
    let (large, states) = if quick { (STATE, 1) } else { (LARGE, STATES) };
    // No run of equal bytes, which some disks compress away.
    let bytes: Vec<u8> =
        (0..large as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
    let seconds = write(path, &bytes)?;
    disk.write_speed = Some(bytes.len() as f64 / seconds);
    let started = Instant::now();
    let mut times = Vec::new();
    while times.len() < states && (times.is_empty() || started.elapsed() < LONGEST) {
        let begun = Instant::now();
        write(path, &bytes[..STATE])?;
        std::fs::rename(path, renamed(path)).map_err(|error| ("cannot rename a file", error))?;
        times.push(begun.elapsed().as_secs_f64());
    }
    times.sort_unstable_by(f64::total_cmp);
    disk.state_seconds = Some(times[times.len() / 2]);
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<f64, Failure> {
    let started = Instant::now();
    let mut file = File::create(path).map_err(|error| ("cannot make a file", error))?;
    file.write_all(bytes).map_err(|error| ("cannot write to a file", error))?;
    file.sync_all().map_err(|error| ("cannot synchronise a file", error))?;
    Ok(started.elapsed().as_secs_f64())
}

/// Name of the file system's kind.
fn file_system(folder: &Path) -> String {
    let Ok(facts) = rustix::fs::statfs(folder) else { return "unknown".to_owned() };
    let name = match facts.f_type as u64 & 0xffff_ffff {
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x2fc1_2fc1 => "zfs",
        0x0102_1994 => "tmpfs",
        0x8584_58f6 => "ramfs",
        0x794c_7630 => "overlayfs",
        0x6969 => "nfs",
        0x0bd0_0bd0 => "lustre",
        0x4750_4653 => "gpfs",
        0x1983_0326 => "beegfs",
        0x00c3_6400 => "ceph",
        0x6573_5546 => "fuse",
        0xff53_4d42 | 0xfe53_4d42 | 0x517b => "smb",
        other => return format!("kind {other:#x}"),
    };
    name.to_owned()
}
