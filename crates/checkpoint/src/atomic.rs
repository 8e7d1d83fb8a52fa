//! Replacing a file so that a reader, or a power cut, sees the old bytes or the new ones and nothing between.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use crate::CheckpointError;

const LEFTOVER_PREFIX: &str = ".gpart-";
const LEFTOVER_SUFFIX: &str = ".tmp";

/// Writes `parts`, one after the other, to a temporary file beside `path`, flushes it to the disk, renames it to
/// `path` and flushes the folder. On an error the temporary file is removed and `path` is as it was.
///
/// # Errors
/// [`CheckpointError::Write`] with the system's reason.
pub fn write_atomic(path: &Path, parts: &[&[u8]]) -> Result<(), CheckpointError> {
    replace(path, parts).map_err(|source| CheckpointError::Write { path: path.to_owned(), source })
}

fn replace(path: &Path, parts: &[&[u8]]) -> std::io::Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(LEFTOVER_PREFIX).suffix(LEFTOVER_SUFFIX);
    share(&mut builder);
    let mut file = builder.tempfile_in(folder)?;
    for part in parts {
        file.write_all(part)?;
    }
    // Without this the rename could reach the disk before the bytes do, and a power cut would leave a torn file.
    file.as_file().sync_all()?;
    file.persist(path).map_err(|e| e.error)?;
    File::open(folder)?.sync_all()
}

/// Removes the temporary files that killed writers left in `folder`. Call it only where no one else writes.
pub fn remove_leftovers(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(LEFTOVER_PREFIX) && name.ends_with(LEFTOVER_SUFFIX) {
            // One that cannot be removed costs space, nothing else.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Temporary files are private unless told otherwise; the user's umask decides who reads a result.
#[cfg(unix)]
fn share(builder: &mut tempfile::Builder<'_, '_>) {
    use std::os::unix::fs::PermissionsExt;
    builder.permissions(std::fs::Permissions::from_mode(0o666));
}

#[cfg(not(unix))]
fn share(_builder: &mut tempfile::Builder<'_, '_>) {}
