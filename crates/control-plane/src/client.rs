//! A person's or a tool's line to a run.

use std::future::Future;
use std::ops::ControlFlow;
use std::time::Duration;

use control_proto::v1;
use control_proto::v1::run_service_client::RunServiceClient;
use tokio::runtime::Runtime;
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::{Code, Request, Response, transport};

use crate::endpoint::Endpoint;
use crate::error::ControlError;
use crate::report::LogLevel;
use crate::status::{Event, Status};
use crate::tls;
use crate::wire;

/// How long a connection may take to be made, and a call to be answered.
const DEADLINE: Duration = Duration::from_secs(5);
/// A coordinator from which nothing comes for so long is asked for a sign of life, and has as long to give it.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// The largest answer that is taken, in bytes: the table of a run of tens of thousands of ranks.
const LARGEST_ANSWER: usize = 32 << 20;

/// A connection on which every call shows the token.
pub(crate) type Channel = InterceptedService<transport::Channel, Bearer>;

/// Adds the token to a call.
#[derive(Clone)]
pub(crate) struct Bearer(AsciiMetadataValue);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, tonic::Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// How to reach a coordinator.
pub(crate) struct Dial {
    endpoint: transport::Endpoint,
    bearer: Bearer,
}

impl Dial {
    /// Checks an endpoint; connects to nothing.
    pub fn new(endpoint: &Endpoint) -> Result<Self, ControlError> {
        endpoint.check()?;
        let wrong = |reason: String| ControlError::Address { address: endpoint.address.clone(), reason };
        let scheme = if endpoint.certificate.is_some() { "https" } else { "http" };
        let mut dial = transport::Endpoint::from_shared(format!("{scheme}://{}", endpoint.address))
            .map_err(|error| wrong(chain(&error)))?
            .connect_timeout(DEADLINE)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE);
        if let Some(trusted) = &endpoint.certificate {
            dial = dial
                .tls_config(tls::client(trusted, endpoint.host())?)
                .map_err(|error| ControlError::Certificate { what: "authority", reason: chain(&error) })?;
        }
        let mut value = AsciiMetadataValue::try_from(format!("Bearer {}", endpoint.token.reveal()))
            .map_err(|error| wrong(error.to_string()))?;
        value.set_sensitive(true);
        Ok(Self { endpoint: dial, bearer: Bearer(value) })
    }

    /// A channel that connects with its first call. Needs a runtime around it.
    pub fn lazy(&self) -> Channel {
        InterceptedService::new(self.endpoint.connect_lazy(), self.bearer.clone())
    }
}

/// An error with all that caused it, each thing once.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let words = inner.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = inner.source();
    }
    wire::clean(&text, wire::SENTENCE)
}

/// What a failed call says, for a person.
pub(crate) fn spell(status: &tonic::Status) -> String {
    match std::error::Error::source(status) {
        Some(cause) => chain(cause),
        None => wire::clean(status.message(), wire::SENTENCE),
    }
}

/// A connection to a run's coordinator. Each call has five seconds.
pub struct Client {
    address: String,
    uses_tls: bool,
    calls: RunServiceClient<Channel>,
    runtime: Runtime,
}

impl Client {
    /// Connects, and makes sure that it is the run's coordinator that answers and that it takes the token.
    ///
    /// # Errors
    /// Nobody answers, or not the one: [`ControlError::Unreachable`], [`ControlError::Refused`],
    /// [`ControlError::Tls`], [`ControlError::NotACoordinator`].
    pub fn connect(endpoint: &Endpoint) -> Result<Self, ControlError> {
        let dial = Dial::new(endpoint)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(1)
            .build()
            .map_err(|source| ControlError::Thread { source })?;
        let channel = {
            let _inside = runtime.enter();
            dial.lazy()
        };
        let calls = RunServiceClient::new(channel).max_decoding_message_size(LARGEST_ANSWER);
        let uses_tls = endpoint.certificate.is_some();
        let mut client = Self { address: endpoint.address.clone(), uses_tls, calls, runtime };
        client.status()?;
        Ok(client)
    }

    /// The run as it is now.
    ///
    /// # Errors
    /// As of [`Client::connect`].
    pub fn status(&mut self) -> Result<Status, ControlError> {
        let mut calls = self.calls.clone();
        self.call(async move { calls.get_status(v1::GetStatusRequest {}).await }).map(wire::status_in)
    }

    /// Hands `history` events of the past and all that come to `take`, until it breaks or the run ends.
    ///
    /// # Errors
    /// As of [`Client::connect`]; the coordinator is lost, or was too fast for `take`.
    pub fn follow(
        &mut self,
        history: usize,
        mut take: impl FnMut(Event) -> ControlFlow<()>,
    ) -> Result<(), ControlError> {
        let history = wire::small(history);
        let mut calls = self.calls.clone();
        let mut events = self.call(async move { calls.follow(v1::FollowRequest { history }).await })?;
        loop {
            // No deadline: a run may have nothing to tell for hours. Keepalive notices a coordinator that is gone.
            match self.runtime.block_on(events.message()) {
                Ok(Some(event)) => {
                    if wire::event_in(event).is_some_and(|event| take(event).is_break()) {
                        return Ok(());
                    }
                }
                Ok(None) => return Ok(()),
                Err(status) => return Err(self.explain(&status)),
            }
        }
    }

    /// Asks for a checkpoint that is kept, after the step in progress.
    ///
    /// # Errors
    /// As of [`Client::connect`].
    pub fn checkpoint(&mut self) -> Result<(), ControlError> {
        let mut calls = self.calls.clone();
        self.call(async move { calls.request_checkpoint(v1::RequestCheckpointRequest {}).await }).map(drop)
    }

    /// Asks the run to end after the step in progress, with its state saved.
    ///
    /// # Errors
    /// As of [`Client::connect`].
    pub fn stop(&mut self, reason: &str) -> Result<(), ControlError> {
        let request = v1::RequestStopRequest { reason: wire::clean(reason, wire::SENTENCE) };
        let mut calls = self.calls.clone();
        self.call(async move { calls.request_stop(request).await }).map(drop)
    }

    /// Asks for another level of logging on all ranks.
    ///
    /// # Errors
    /// As of [`Client::connect`].
    pub fn set_log_level(&mut self, level: LogLevel) -> Result<(), ControlError> {
        let request = v1::SetLogLevelRequest { level: level.to_string() };
        let mut calls = self.calls.clone();
        self.call(async move { calls.set_log_level(request).await }).map(drop)
    }

    fn call<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, tonic::Status>>,
    ) -> Result<T, ControlError> {
        let timed = async { tokio::time::timeout(DEADLINE, call).await };
        match self.runtime.block_on(timed) {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.explain(&status)),
            Err(_) => Err(ControlError::Unreachable {
                address: self.address.clone(),
                reason: format!("no answer within {} s", DEADLINE.as_secs()),
            }),
        }
    }

    /// What a failed call means for a person.
    fn explain(&self, status: &tonic::Status) -> ControlError {
        let (address, reason) = (self.address.clone(), spell(status));
        match status.code() {
            Code::Unauthenticated => ControlError::Refused { address },
            Code::Unimplemented => ControlError::NotACoordinator { address, reason },
            _ if self.uses_tls && is_about_tls(&reason) => ControlError::Tls { address, reason },
            _ if is_about_protocol(&reason) => ControlError::NotACoordinator { address, reason },
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => {
                ControlError::Unreachable { address, reason }
            }
            // Not the coordinator's words, but those of a connection that broke.
            _ if std::error::Error::source(status).is_some() => ControlError::Unreachable { address, reason },
            _ => ControlError::Failed { address, reason },
        }
    }
}

/// The libraries below tell these apart in words alone.
fn is_about_tls(reason: &str) -> bool {
    ["certificate", "corrupt message", "handshake", "HandshakeFailure", "AlertReceived", "fatal alert"]
        .iter()
        .any(|word| reason.contains(word))
}

fn is_about_protocol(reason: &str) -> bool {
    [
        "http2 error",
        "protocol error",
        "PROTOCOL_ERROR",
        "frame with invalid size",
        "FRAME_SIZE",
        "invalid compression flag",
        "grpc-status header missing",
    ]
    .iter()
    .any(|word| reason.contains(word))
}
