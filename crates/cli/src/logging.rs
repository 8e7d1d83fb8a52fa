//! A log file a rank. What is logged before the output folder is known is kept and written then.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::fmt::MakeWriter;

/// Where log lines go: into memory until [`LogFile::attach`], then into the file.
#[derive(Clone, Default)]
pub struct LogFile(Arc<Mutex<Sink>>);

#[derive(Default)]
struct Sink {
    waiting: Vec<u8>,
    file: Option<File>,
}

impl LogFile {
    /// Starts logging at `level` and above.
    pub fn start(level: config::LogLevel) -> Self {
        let log = Self::default();
        // The HTTP client's own lines hold the token, signed addresses and, byte for byte, what is downloaded.
        let filter = format!("{level},ureq=off,ureq_proto=off,rustls=off");
        let filter = tracing_subscriber::EnvFilter::new(filter);
        // A second start in one process (there is none outside tests) keeps the first.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(false)
            .with_writer(log.clone())
            .try_init();
        log
    }

    /// Sends everything to `OUTPUT/logs/rank-NNN.log`, appending.
    pub fn attach(&self, output: &Path, rank: usize) -> std::io::Result<()> {
        let folder = output.join("logs");
        std::fs::create_dir_all(&folder)?;
        let path = folder.join(format!("rank-{rank:03}.log"));
        let mut file = File::options().append(true).create(true).open(path)?;
        let mut sink = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&std::mem::take(&mut sink.waiting))?;
        sink.file = Some(file);
        Ok(())
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut sink = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut sink.file {
            Some(file) => file.write(bytes),
            None => sink.waiting.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogFile {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
