//! The launcher's own terminal, and one for mpirun.
//!
//! On a terminal rank 0 draws a progress bar. It asks whether what mpirun writes to is a terminal, so mpirun gets a
//! pseudo-terminal there; what rank 0 writes to it is handed on as it is, byte by byte, and what other ranks and the
//! launcher say comes in lines of its own above the bar. Elsewhere mpirun gets a pipe, rank 0 writes plain lines, and
//! every line is prefixed.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

/// Takes back what a progress bar has drawn in the line where the cursor is.
pub const CLEAR_LINE: &str = "\r\x1b[2K";

/// A pseudo-terminal: the end that is read, and the end that is written to.
pub fn pair() -> io::Result<(File, OwnedFd)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let slave = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    // Bytes pass as they are: the terminal at the end does what terminals do with line ends.
    let mut settings = tcgetattr(&slave)?;
    settings.make_raw();
    tcsetattr(&slave, OptionalActions::Now, &settings)?;
    Ok((File::from(master), slave))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn bytes_pass_as_they_are() {
        let (mut read, written) = pair().unwrap();
        File::from(written).write_all(b"a\nb\r").unwrap();
        let mut bytes = [0; 4];
        read.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"a\nb\r");
    }
}
