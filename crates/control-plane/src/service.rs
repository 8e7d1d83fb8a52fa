//! The services: requests in, the registry asked, answers out.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use control_proto::v1;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use crate::connections::Peer;
use crate::registry::{NotTaken, Now, Registry};
use crate::report::Wish;
use crate::token::Token;
use crate::wire;

/// How often a rank shall be heard.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(1);
/// A stream of reports on which nothing comes for so long is ended; the rank comes back when it can.
const QUIET_STREAM: Duration = Duration::from_secs(120);

/// What all services share.
#[derive(Clone)]
pub(crate) struct Shared {
    registry: Arc<Mutex<Registry>>,
    began: Instant,
}

impl Shared {
    pub fn new(registry: Registry) -> Self {
        Self { registry: Arc::new(Mutex::new(registry)), began: Instant::now() }
    }

    /// Never held across a wait.
    pub fn lock(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now {
            since_start: self.began.elapsed(),
            unix_milliseconds: i64::try_from(unix.as_millis()).unwrap_or(i64::MAX),
        }
    }
}

/// Lets calls in that bring the token.
pub(crate) fn guard(token: Token) -> impl Fn(Request<()>) -> Result<Request<()>, Status> + Clone {
    move |request| {
        let header = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let shown = header.and_then(|value| value.strip_prefix("Bearer ")).and_then(Token::parse);
        match shown {
            Some(shown) if shown == token => {
                if let Some(peer) = request.extensions().get::<Peer>() {
                    peer.know();
                }
                Ok(request)
            }
            Some(_) => Err(Status::unauthenticated("the token is not that of this run")),
            None => Err(Status::unauthenticated("the metadata \"authorization: Bearer TOKEN\" is missing")),
        }
    }
}

fn refuse(why: NotTaken) -> Status {
    match why {
        NotTaken::Wrong(reason) => Status::invalid_argument(reason),
        NotTaken::Over(reason) => Status::failed_precondition(reason),
    }
}

/// A random number that is not 0.
pub(crate) fn random_number() -> Result<u64, std::io::Error> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(std::io::Error::from)?;
    Ok(u64::from_le_bytes(bytes) | 1)
}

/// What ranks call.
pub(crate) struct Ranks(pub Shared);

#[tonic::async_trait]
impl v1::rank_service_server::RankService for Ranks {
    async fn register(
        &self,
        request: Request<v1::RegisterRequest>,
    ) -> Result<Response<v1::RegisterResponse>, Status> {
        let session = random_number().map_err(|error| Status::internal(error.to_string()))?;
        let now = self.0.now();
        let mut registry = self.0.lock();
        let session = registry.register(request.into_inner(), session, now).map_err(refuse)?;
        Ok(Response::new(v1::RegisterResponse {
            session,
            coordinator: registry.identity(),
            heartbeat_seconds: HEARTBEAT.as_secs_f64(),
        }))
    }

    type ReportStream = Pin<Box<dyn Stream<Item = Result<v1::RankCommand, Status>> + Send>>;

    async fn report(
        &self,
        request: Request<Streaming<v1::RankReport>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let mut reports = request.into_inner();
        let Some(first) = reports.message().await? else {
            return Err(Status::invalid_argument("the stream has no report"));
        };
        let session = first.session;
        let shared = self.0.clone();
        let attached = {
            let now = shared.now();
            let mut registry = shared.lock();
            let attached = registry.attach(session, now).map_err(refuse)?;
            registry.report(first, now).map_err(refuse)?;
            attached
        };
        tokio::spawn(async move {
            while let Ok(Ok(Some(report))) = tokio::time::timeout(QUIET_STREAM, reports.message()).await {
                let now = shared.now();
                if report.session != session || shared.lock().report(report, now).is_err() {
                    break;
                }
            }
            let now = shared.now();
            shared.lock().detach(session, attached.stream, now);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(attached.commands).map(Ok))))
    }
}

/// What people's commands call.
pub(crate) struct Run(pub Shared);

impl Run {
    fn note(&self, wish: Wish) -> Response<v1::WishResponse> {
        let now = self.0.now();
        self.0.lock().wish(wish, now);
        Response::new(v1::WishResponse {})
    }
}

#[tonic::async_trait]
impl v1::run_service_server::RunService for Run {
    async fn get_status(&self, _: Request<v1::GetStatusRequest>) -> Result<Response<v1::Status>, Status> {
        let status = self.0.lock().status(self.0.now());
        Ok(Response::new(wire::status_out(&status)))
    }

    type FollowStream = Pin<Box<dyn Stream<Item = Result<v1::Event, Status>> + Send>>;

    async fn follow(
        &self,
        request: Request<v1::FollowRequest>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let history = usize::try_from(request.into_inner().history).unwrap_or(usize::MAX);
        let Some(following) = self.0.lock().follow(history) else {
            return Err(Status::resource_exhausted("too many follow this run already"));
        };
        let too_slow = following.too_slow;
        let events = tokio_stream::iter(following.past).chain(ReceiverStream::new(following.coming));
        // Looked at when the events have ended: why they did.
        let end = tokio_stream::iter([()]).filter_map(move |()| {
            let is_dropped = too_slow.load(Ordering::Acquire);
            is_dropped.then(|| Err(Status::resource_exhausted("events were not read fast enough")))
        });
        Ok(Response::new(Box::pin(events.map(|event| Ok(wire::event_out(&event))).chain(end))))
    }

    async fn request_checkpoint(
        &self,
        _: Request<v1::RequestCheckpointRequest>,
    ) -> Result<Response<v1::WishResponse>, Status> {
        Ok(self.note(Wish::Checkpoint))
    }

    async fn request_stop(
        &self,
        request: Request<v1::RequestStopRequest>,
    ) -> Result<Response<v1::WishResponse>, Status> {
        Ok(self.note(Wish::Stop { reason: request.into_inner().reason }))
    }

    async fn set_log_level(
        &self,
        request: Request<v1::SetLogLevelRequest>,
    ) -> Result<Response<v1::WishResponse>, Status> {
        match request.into_inner().level.parse() {
            Ok(level) => Ok(self.note(Wish::LogLevel(level))),
            Err(reason) => Err(Status::invalid_argument(reason)),
        }
    }
}
