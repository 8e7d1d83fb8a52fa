//! The control plane of a run: ranks tell a coordinator what they do, people look at it and ask things of it.
//!
//! ```text
//!  rank ── RankLink ──gRPC──► Coordinator ◄──gRPC── Client ── status, watch, checkpoint, stop
//!                              │    ▲
//!                    decide::look   Endpoint (address, token, certificate): control.json, environment
//! ```
//!
//! All of it is synchronous for its users; threads and sockets are inside. Training never depends on it: a link whose
//! coordinator is gone tries again, and drops what it has to say.

pub mod decide;
pub mod render;

mod client;
mod connections;
mod coordinator;
mod endpoint;
mod error;
mod link;
mod metrics;
mod registry;
mod report;
mod service;
mod status;
mod tls;
mod token;
mod wire;

pub use client::Client;
pub use coordinator::{Coordinator, CoordinatorOptions, MetricsOptions, TlsPolicy};
pub use endpoint::{ADDRESS_VARIABLE, CA_VARIABLE, Endpoint, FILE, TOKEN_VARIABLE};
pub use error::ControlError;
pub use link::{ATTEMPT_VARIABLE, LinkState, RankLink, attempt_from_env};
pub use report::{LogLevel, Memory, Phase, RankInfo, StepReport, Wish, Wishes};
pub use status::{Event, EventKind, RankStatus, Status};
pub use token::Token;
