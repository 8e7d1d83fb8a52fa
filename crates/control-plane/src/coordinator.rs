//! The server of a run.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use control_proto::v1::rank_service_server::{self, RankServiceServer};
use control_proto::v1::run_service_server::{self, RunServiceServer};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::client::chain;
use crate::connections::{Connections, Guarded};
use crate::decide::Limits;
use crate::endpoint::{Endpoint, split};
use crate::error::ControlError;
use crate::metrics;
use crate::registry::Registry;
use crate::report::Wish;
use crate::service::{Ranks, Run, Shared, guard, random_number};
use crate::status::{Event, EventKind, Status};
use crate::tls::{self, Served};
use crate::token::Token;
use crate::wire;

/// More ranks than any run has.
const MOST_RANKS: usize = 1 << 16;
/// The largest message that is taken, in bytes.
const LARGEST_MESSAGE: usize = 256 << 10;
/// Connections beside those of ranks.
const CONNECTIONS: usize = 256;
/// Calls that one connection may have open.
const CALLS: u32 = 64;
/// Bytes that a call may send before they are read; a connection may send four times as many.
const WINDOW: u32 = 64 << 10;
/// The most a request's metadata may hold, in bytes.
const HEADERS: u32 = 16 << 10;
/// How long a call may take to be sent and answered; streams have to begin by then.
const CALL: Duration = Duration::from_secs(10);
/// A connection is asked for a sign of life when nothing came for so long …
const KEEPALIVE: Duration = Duration::from_secs(20);
/// … and closed when none comes.
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(10);
/// How often the run is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How long streams may take to end.
const END: Duration = Duration::from_millis(500);

/// Whether and how the coordinator speaks TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum TlsPolicy {
    /// It does not; then it listens on loopback alone.
    #[default]
    Off,
    /// With a certificate that is made at start and that goes with the endpoint.
    MadeAtStart,
    /// With the user's own (PEM files).
    Files {
        /// The certificate, with those between it and the authority.
        certificate: PathBuf,
        /// Its private key.
        key: PathBuf,
        /// What clients trust; it goes with the endpoint.
        authority: PathBuf,
    },
}

/// Where metrics are served for Prometheus (`GET /metrics`, without a token).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsOptions {
    /// HOST:PORT; port 0 for any free one.
    pub listen: String,
    /// Whether an address may be taken that other hosts reach.
    pub public: bool,
}

/// How a coordinator is started.
#[derive(Debug, Clone)]
pub struct CoordinatorOptions {
    /// The run's name.
    pub run: String,
    /// How many ranks its first attempt has.
    pub ranks: usize,
    /// HOST:PORT; port 0 for any free one.
    pub listen: String,
    /// The host's name or address as others reach it. By default what is listened on, or this host's name where that is
    /// every address.
    pub advertise: Option<String>,
    /// Whether and how it speaks TLS.
    pub tls: TlsPolicy,
    /// The token, to take the place of a coordinator that is gone; by default a new one.
    pub token: Option<Token>,
    /// The output folder: where `control.json` is written, and removed at the end.
    pub folder: Option<PathBuf>,
    /// How long things may take.
    pub limits: Limits,
    /// Where metrics are served, if they are.
    pub metrics: Option<MetricsOptions>,
}

impl CoordinatorOptions {
    /// On loopback, without TLS, files or metrics.
    pub fn new(run: impl Into<String>, ranks: usize) -> Self {
        Self {
            run: run.into(),
            ranks,
            listen: "127.0.0.1:0".into(),
            advertise: None,
            tls: TlsPolicy::Off,
            token: None,
            folder: None,
            limits: Limits::default(),
            metrics: None,
        }
    }
}

/// The server of a run: takes reports and wishes, and looks after ranks. Its threads end when it is dropped.
pub struct Coordinator {
    endpoint: Endpoint,
    metrics: Option<SocketAddr>,
    file: Option<PathBuf>,
    shared: Shared,
    server: Option<Serving>,
    runtime: Option<Runtime>,
}

/// The server's two ends of life.
struct Serving {
    /// Asks it to end.
    end: oneshot::Sender<()>,
    /// Hangs up when it has.
    ended: Mutex<Receiver<()>>,
}

impl Coordinator {
    /// Starts one. When this returns it can be reached.
    ///
    /// # Errors
    /// An option cannot be, the address cannot be listened on, or the endpoint cannot be written.
    pub fn start(options: CoordinatorOptions) -> Result<Self, ControlError> {
        check_ranks(options.ranks)?;
        let (listener, address) = listen("the control plane", &options.listen)?;
        let is_open = !address.ip().is_loopback();
        let host = options.advertise.clone().unwrap_or_else(|| reached_as(address.ip()));
        let served = match &options.tls {
            TlsPolicy::Off if is_open => {
                return Err(ControlError::WithoutTls { what: "the control plane", address: options.listen });
            }
            TlsPolicy::Off => None,
            TlsPolicy::MadeAtStart => Some(tls::made_now(&host)?),
            TlsPolicy::Files { certificate, key, authority } => {
                Some(tls::from_files(certificate, key, authority)?)
            }
        };
        let metrics = options.metrics.as_ref().map(metrics_listener).transpose()?;
        let thread = |source| ControlError::Thread { source };
        let token = options.token.map_or_else(Token::random, Ok).map_err(thread)?;
        let address = if host.contains(':') {
            format!("[{host}]:{}", address.port())
        } else {
            format!("{host}:{}", address.port())
        };
        let endpoint =
            Endpoint { address, token, certificate: served.as_ref().map(|served| served.trusted.clone()) };
        endpoint.check()?;
        let identity = random_number().map_err(thread)?;
        let shared = Shared::new(Registry::new(&options.run, options.ranks, options.limits, identity));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(1)
            .thread_name("control")
            .enable_all()
            .build()
            .map_err(thread)?;
        let mut coordinator = Self {
            endpoint,
            metrics: metrics.as_ref().map(|(_, address)| *address),
            file: None,
            shared,
            server: None,
            runtime: Some(runtime),
        };
        coordinator.serve(listener, served, options.ranks)?;
        if let (Some(runtime), Some((listener, _))) = (&coordinator.runtime, metrics) {
            runtime.spawn(metrics::serve(in_runtime(runtime, listener)?, coordinator.shared.clone()));
        }
        let reason = "the run begins".into();
        coordinator.tell(EventKind::AttemptBegan { ranks: options.ranks, reason });
        coordinator.file = options.folder.map(|folder| coordinator.endpoint.write(&folder)).transpose()?;
        Ok(coordinator)
    }

    fn serve(
        &mut self,
        listener: TcpListener,
        served: Option<Served>,
        ranks: usize,
    ) -> Result<(), ControlError> {
        let Some(runtime) = &self.runtime else { return Ok(()) };
        let listener = in_runtime(runtime, listener)?;
        let (router, reporter) = router(&self.shared, &self.endpoint.token, served)?;
        // A rank that comes again may do so before its old connection is known to be gone.
        let connections = Connections::new(CONNECTIONS + 2 * ranks);
        let (taken, incoming) = mpsc::channel::<io::Result<Guarded>>(16);
        let (end, until) = oneshot::channel();
        let (alive, ended) = std::sync::mpsc::channel::<()>();
        self.server = Some(Serving { end, ended: Mutex::new(ended) });
        runtime.spawn(connections.clone().accept(listener, taken));
        runtime.spawn(async move {
            let end = async {
                // Either way it is over: asked for, or the coordinator is gone.
                let _ = until.await;
            };
            for service in [rank_service_server::SERVICE_NAME, run_service_server::SERVICE_NAME] {
                reporter.set_service_status(service, ServingStatus::Serving).await;
            }
            let incoming = ReceiverStream::new(incoming);
            if let Err(error) = router.serve_with_incoming_shutdown(incoming, end).await {
                tracing::error!("the control plane has ended: {error}");
            }
            drop(alive);
        });
        let shared = self.shared.clone();
        runtime.spawn(async move {
            let mut ticks = tokio::time::interval(LOOK);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                connections.sweep();
                let now = shared.now();
                shared.lock().look(now);
            }
        });
        Ok(())
    }

    /// Where it is reached, and with what.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Where metrics are served, if they are.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics
    }

    /// The run as it is now.
    pub fn status(&self) -> Status {
        self.shared.lock().status(self.shared.now())
    }

    /// Events from now on. Who is more than 4096 events behind gets no more.
    pub fn subscribe(&self) -> Receiver<Event> {
        self.shared.lock().listen()
    }

    /// Asks something of the run: it goes to rank 0, now or when it is there.
    pub fn wish(&self, wish: Wish) {
        let now = self.shared.now();
        self.shared.lock().wish(wish, now);
    }

    /// A line for all who follow the run.
    pub fn note(&self, text: &str) {
        self.tell(EventKind::Note { text: wire::clean(text, wire::SENTENCE) });
    }

    /// The run is started again, on so many ranks, for that reason: ranks register afresh, what happened is kept.
    /// Returns the attempt's number, for `GPART_CONTROL_ATTEMPT`.
    ///
    /// # Errors
    /// No run has so many ranks.
    pub fn new_attempt(&self, ranks: usize, reason: &str) -> Result<u32, ControlError> {
        check_ranks(ranks)?;
        let now = self.shared.now();
        Ok(self.shared.lock().new_attempt(ranks, reason, now))
    }

    /// Ends it: followers learn how the run came out, and the endpoint's file goes away.
    pub fn stop(mut self, outcome: &str) {
        self.close(outcome);
    }

    fn tell(&self, kind: EventKind) {
        let now = self.shared.now();
        self.shared.lock().tell(kind, now);
    }

    fn close(&mut self, outcome: &str) {
        let now = self.shared.now();
        self.shared.lock().close(outcome, now);
        self.remove_file();
        if let Some(Serving { end, ended }) = self.server.take() {
            // An error means that the server has ended already.
            let _ = end.send(());
            // Followers get the last event, unless they do not read.
            let _ = ended.into_inner().unwrap_or_else(PoisonError::into_inner).recv_timeout(END);
        }
        match self.runtime.take() {
            // A runtime must not be waited for inside another one.
            Some(runtime) if tokio::runtime::Handle::try_current().is_ok() => runtime.shutdown_background(),
            Some(runtime) => runtime.shutdown_timeout(END),
            None => {}
        }
    }

    /// Removes the endpoint's file, if it is still this coordinator's.
    fn remove_file(&mut self) {
        let Some(path) = self.file.take() else { return };
        if Endpoint::read(&path).is_ok_and(|found| found == self.endpoint)
            && let Err(error) = std::fs::remove_file(&path)
        {
            tracing::warn!("cannot remove {}: {error}", path.display());
        }
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.close("the coordinator has ended");
    }
}

fn check_ranks(ranks: usize) -> Result<(), ControlError> {
    if (1..=MOST_RANKS).contains(&ranks) {
        return Ok(());
    }
    Err(ControlError::Option {
        name: "the number of ranks",
        value: ranks.to_string(),
        hint: "a run has 1 to 65536 ranks",
    })
}

/// Listens on an address, which may name this host.
fn listen(what: &'static str, address: &str) -> Result<(TcpListener, SocketAddr), ControlError> {
    split(address)?;
    let refused = |source| ControlError::Listen { address: address.into(), source };
    let candidates: Vec<_> = address.to_socket_addrs().map_err(refused)?.collect();
    let listener = TcpListener::bind(candidates.as_slice()).map_err(refused)?;
    listener.set_nonblocking(true).map_err(refused)?;
    let bound = listener.local_addr().map_err(refused)?;
    tracing::debug!("{what} listens on {bound}");
    Ok((listener, bound))
}

fn metrics_listener(options: &MetricsOptions) -> Result<(TcpListener, SocketAddr), ControlError> {
    let (listener, address) = listen("the metrics page", &options.listen)?;
    if !address.ip().is_loopback() && !options.public {
        return Err(ControlError::PublicMetrics { address: options.listen.clone() });
    }
    Ok((listener, address))
}

fn in_runtime(runtime: &Runtime, listener: TcpListener) -> Result<tokio::net::TcpListener, ControlError> {
    let _inside = runtime.enter();
    tokio::net::TcpListener::from_std(listener).map_err(|source| ControlError::Thread { source })
}

/// Under what name others reach an address that is listened on.
fn reached_as(address: IpAddr) -> String {
    if address.is_unspecified() { tls::host_name() } else { address.to_string() }
}

fn router(
    shared: &Shared,
    token: &Token,
    served: Option<Served>,
) -> Result<(Router, HealthReporter), ControlError> {
    let guard = guard(token.clone());
    let ranks = RankServiceServer::new(Ranks(shared.clone())).max_decoding_message_size(LARGEST_MESSAGE);
    let run = RunServiceServer::new(Run(shared.clone())).max_decoding_message_size(LARGEST_MESSAGE);
    let (reporter, health) = tonic_health::server::health_reporter();
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(control_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let broken =
        |error: tonic_reflection::server::Error| ControlError::Thread { source: io::Error::other(error) };
    let mut server = Server::builder();
    if let Some(served) = served {
        let wrong = |error: tonic::transport::Error| ControlError::Certificate {
            what: "certificate or key",
            reason: chain(&error),
        };
        server = server.tls_config(served.config.timeout(CALL)).map_err(wrong)?;
    }
    let router = server
        .timeout(CALL)
        .max_concurrent_streams(CALLS)
        .http2_max_header_list_size(HEADERS)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_ANSWER))
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(4 * WINDOW)
        .add_service(health)
        .add_service(InterceptedService::new(ranks, guard.clone()))
        .add_service(InterceptedService::new(run, guard.clone()))
        .add_service(InterceptedService::new(reflection().build_v1().map_err(broken)?, guard.clone()))
        .add_service(InterceptedService::new(reflection().build_v1alpha().map_err(broken)?, guard));
    Ok((router, reporter))
}
