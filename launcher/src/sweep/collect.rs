//! The table of a sweep, which `gpart-dist collect` makes.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use super::record::write_whole;
use crate::error::LaunchError;
use crate::report;

/// Formats, and the files that they go to. The first one is shown as well.
const FORMATS: [(&str, &str); 3] =
    [("text", "collected.txt"), ("csv", "collected.csv"), ("latex", "collected.tex")];

/// Shows the table of a sweep's folder, and keeps it there in several formats.
pub fn collect(program: &Path, folder: &Path) -> Result<(), LaunchError> {
    for (at, (format, file)) in FORMATS.into_iter().enumerate() {
        let table = table(program, folder, format)?;
        write_whole(&folder.join(file), &table)?;
        if at == 0 {
            let mut stdout = std::io::stdout().lock();
            let _ = stdout.write_all(&table).and_then(|()| stdout.flush());
        }
    }
    let files = FORMATS.map(|(_, file)| file).join(", ");
    report::note(&format!("the table is in {files} of {}", folder.display()));
    Ok(())
}

fn table(program: &Path, folder: &Path, format: &str) -> Result<Vec<u8>, LaunchError> {
    let failed = |why: String| LaunchError::NoTable { folder: folder.to_owned(), why };
    let mut asked = Command::new(program);
    asked.arg("collect").arg(folder).args(["--format", format]).stdin(Stdio::null());
    let output = asked.output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        // What it warns of, once.
        if format == FORMATS[0].0 {
            let _ = std::io::stderr().write_all(&output.stderr);
        }
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let said = said.lines().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    let said = said.trim().trim_start_matches("error: ");
    Err(failed(format!("{} collect ended with {}: {said}", program.display(), output.status)))
}
