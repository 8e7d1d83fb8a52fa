//! Whether somebody watches.

use std::io::IsTerminal;

/// Whether standard output ends at a terminal. Under mpirun every rank writes to a pseudo-terminal of mpirun's, so
/// there the question is where mpirun's own output goes.
pub fn is_terminal() -> bool {
    if !std::io::stdout().is_terminal() {
        return false;
    }
    match comm::launcher() {
        None => true,
        Some(_) => parent_writes_to_terminal().unwrap_or(false),
    }
}

fn parent_writes_to_terminal() -> Option<bool> {
    let target = std::fs::read_link(format!("/proc/{}/fd/1", std::os::unix::process::parent_id())).ok()?;
    let target = target.to_str()?;
    Some(target.starts_with("/dev/pts/") || target.starts_with("/dev/tty") || target == "/dev/console")
}

/// Columns of the terminal that standard output ends at; what a wide page has where there is none.
pub fn columns() -> usize {
    const PAGE: usize = 120;
    let size = rustix::termios::tcgetwinsize(std::io::stdout());
    size.ok().map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0).unwrap_or(PAGE)
}
