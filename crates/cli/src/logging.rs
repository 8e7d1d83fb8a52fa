//! A log file a rank. What is logged before the output folder is known is kept and written then.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

/// Where log lines go: into memory until [`LogFile::attach`], then into the file.
#[derive(Clone, Default)]
pub struct LogFile {
    sink: Arc<Mutex<Sink>>,
    /// Changes what is logged.
    level: Arc<OnceLock<reload::Handle<EnvFilter, Registry>>>,
}

#[derive(Default)]
struct Sink {
    waiting: Vec<u8>,
    file: Option<File>,
}

impl LogFile {
    /// Starts logging at `level` and above.
    pub fn start(level: config::LogLevel) -> Self {
        let log = Self::default();
        let (filter, handle) = reload::Layer::new(filter(level));
        let _ = log.level.set(handle);
        let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(log.clone());
        // A second start in one process (there is none outside tests) keeps the first.
        let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
        log
    }

    /// Logs at `level` and above from now on.
    pub fn set_level(&self, level: config::LogLevel) {
        let changed = self.level.get().map(|handle| handle.reload(filter(level)));
        if changed.is_some_and(|changed| changed.is_ok()) {
            tracing::error!(%level, "log level changed");
        }
    }

    /// Sends everything to `OUTPUT/logs/rank-NNN.log`, appending.
    pub fn attach(&self, output: &Path, rank: usize) -> std::io::Result<()> {
        let folder = output.join("logs");
        std::fs::create_dir_all(&folder)?;
        let path = folder.join(format!("rank-{rank:03}.log"));
        let mut file = File::options().append(true).create(true).open(path)?;
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&std::mem::take(&mut sink.waiting))?;
        sink.file = Some(file);
        Ok(())
    }
}

/// The HTTP client's own lines hold the token, signed addresses and, byte for byte, what is downloaded.
fn filter(level: config::LogLevel) -> EnvFilter {
    EnvFilter::new(format!("{level},ureq=off,ureq_proto=off,rustls=off,h2=off,hyper=off,tonic=off,tower=off"))
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
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
