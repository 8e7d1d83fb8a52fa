//! Connections, counted and limited: those that have not shown the token never keep the others out.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tonic::transport::server::Connected;

/// How long a connection may last that has not shown the token: for a handshake and one call, or a health check.
const STRANGER: Duration = Duration::from_secs(15);
/// The pause after the system refused a connection, most likely for want of file descriptors.
const REFUSED: Duration = Duration::from_millis(100);

/// All open connections.
#[derive(Clone)]
pub(crate) struct Connections {
    table: Arc<Mutex<Table>>,
    limit: usize,
}

#[derive(Default)]
struct Table {
    next: u64,
    /// By number, hence oldest first.
    open: BTreeMap<u64, Entry>,
}

struct Entry {
    opened: Instant,
    is_known: Arc<AtomicBool>,
    /// Dropping it closes the connection.
    _close: oneshot::Sender<()>,
}

impl Connections {
    /// At most `limit` at once.
    pub fn new(limit: usize) -> Self {
        Self { table: Arc::default(), limit }
    }

    /// Takes connections in until nobody wants them any more.
    pub async fn accept(self, listener: TcpListener, taken: mpsc::Sender<io::Result<Guarded>>) {
        loop {
            let stream = tokio::select! {
                accepted = listener.accept() => accepted,
                () = taken.closed() => return,
            };
            let Ok((stream, _)) = stream else {
                self.drop_oldest_stranger();
                tokio::time::sleep(REFUSED).await;
                continue;
            };
            // Heartbeats are small and wanted at once; a socket that refuses this option works as well.
            let _ = stream.set_nodelay(true);
            let Some(guarded) = self.admit(stream) else { continue };
            if taken.send(Ok(guarded)).await.is_err() {
                return;
            }
        }
    }

    /// `None` where all connections have shown the token and there is no room.
    fn admit(&self, stream: TcpStream) -> Option<Guarded> {
        if self.lock().open.len() >= self.limit && !self.drop_oldest_stranger() {
            return None;
        }
        let (close, closed) = oneshot::channel();
        let is_known = Arc::new(AtomicBool::new(false));
        let mut table = self.lock();
        let number = table.next;
        table.next += 1;
        table
            .open
            .insert(number, Entry { opened: Instant::now(), is_known: Arc::clone(&is_known), _close: close });
        Some(Guarded { stream, closed, peer: Peer { is_known }, number, connections: self.clone() })
    }

    fn drop_oldest_stranger(&self) -> bool {
        let mut table = self.lock();
        let oldest = table.open.iter().find(|(_, entry)| !entry.is_known.load(Ordering::Acquire));
        let Some((&number, _)) = oldest else { return false };
        table.open.remove(&number);
        true
    }

    /// Closes what has been there for long without showing the token.
    pub fn sweep(&self) {
        let is_fine =
            |entry: &Entry| entry.is_known.load(Ordering::Acquire) || entry.opened.elapsed() < STRANGER;
        self.lock().open.retain(|_, entry| is_fine(entry));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who is at the other end; goes with every request.
#[derive(Clone)]
pub(crate) struct Peer {
    is_known: Arc<AtomicBool>,
}

impl Peer {
    /// The token was right.
    pub fn know(&self) {
        self.is_known.store(true, Ordering::Release);
    }
}

/// A connection that can be closed from outside.
pub(crate) struct Guarded {
    stream: TcpStream,
    closed: oneshot::Receiver<()>,
    peer: Peer,
    number: u64,
    connections: Connections,
}

impl Guarded {
    /// Fails once the connection was closed from outside, and wakes the task when that happens.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.closed.is_terminated() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        match Pin::new(&mut self.closed).poll(context) {
            Poll::Pending => Ok(()),
            Poll::Ready(_) => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.connections.lock().open.remove(&self.number);
    }
}

impl Connected for Guarded {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
