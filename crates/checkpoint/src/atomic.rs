//! Replacing a file so that a reader, or a power cut, sees the old bytes or the new ones and nothing between.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use crate::CheckpointError;

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
    let mut file = tempfile::Builder::new().prefix(".gpart-").suffix(".tmp").tempfile_in(folder)?;
    for part in parts {
        file.write_all(part)?;
    }
    // Without this the rename could reach the disk before the bytes do, and a power cut would leave a torn file.
    file.as_file().sync_all()?;
    make_readable(file.as_file())?;
    file.persist(path).map_err(|e| e.error)?;
    File::open(folder)?.sync_all()
}

/// Temporary files are made private; a result is shared like any other file of the user's.
#[cfg(unix)]
fn make_readable(file: &File) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn make_readable(_file: &File) -> std::io::Result<()> {
    Ok(())
}
