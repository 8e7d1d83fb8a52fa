//! What the control plane reports to its users.

use std::path::PathBuf;

use miette::Diagnostic;
use thiserror::Error;

/// A control plane that cannot be started, reached or used.
#[derive(Debug, Error, Diagnostic)]
pub enum ControlError {
    /// The folder has no run that can be reached.
    #[error("no {} is there", path.display())]
    #[diagnostic(
        code(input::no_control_file),
        help("name the output folder of a run that is in progress; the file goes away when the run ends")
    )]
    NoControlFile {
        /// The file that was looked for.
        path: PathBuf,
    },
    /// The file of the endpoint was refused by the system.
    #[error("cannot read {}", path.display())]
    #[diagnostic(
        code(input::control_file_unreadable),
        help("only the user who started the run may read it; run this command as that user")
    )]
    ReadControlFile {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The file of the endpoint is something else.
    #[error("{} was not written by gpart-dist: {reason}", path.display())]
    #[diagnostic(code(input::control_file_damaged), help("name the output folder of a run"))]
    ControlFileDamaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// The file of the endpoint cannot be written.
    #[error("cannot write {}", path.display())]
    #[diagnostic(code(run::control_file_unwritable), help("is the disk full or read-only?"))]
    WriteControlFile {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// A setting of the environment does not fit.
    #[error("{name} is not right: {reason}")]
    #[diagnostic(
        code(input::control_environment),
        help("these variables are set by the launcher; unset all of GPART_CONTROL_* to run without one")
    )]
    Environment {
        /// The variable.
        name: &'static str,
        /// What does not fit. A token's value is never part of it.
        reason: String,
    },
    /// An address that is none.
    #[error("\"{address}\" is not an address: {reason}")]
    #[diagnostic(code(input::control_address), help("write HOST:PORT, with an IPv6 address in brackets"))]
    Address {
        /// As it was written.
        address: String,
        /// What does not fit.
        reason: String,
    },
    /// Other hosts would be served without encryption.
    #[error("{what} would listen on {address} without TLS")]
    #[diagnostic(
        code(input::control_without_tls),
        help(
            "listen on 127.0.0.1, or ask for TLS: with a certificate made at start or with files of your own"
        )
    )]
    WithoutTls {
        /// The server that would.
        what: &'static str,
        /// The address.
        address: String,
    },
    /// Metrics would be readable from other hosts without anybody having asked for that.
    #[error("metrics would be readable by everybody who reaches {address}")]
    #[diagnostic(
        code(input::metrics_public),
        help("listen on 127.0.0.1, or say explicitly that metrics are public")
    )]
    PublicMetrics {
        /// The address.
        address: String,
    },
    /// An option of the coordinator or the link that cannot be.
    #[error("{name} cannot be {value}")]
    #[diagnostic(code(input::control_option), help("{hint}"))]
    Option {
        /// What it is called.
        name: &'static str,
        /// As given.
        value: String,
        /// What would do.
        hint: &'static str,
    },
    /// A certificate or key that is none, or does not fit the other.
    #[error("the TLS {what} cannot be used: {reason}")]
    #[diagnostic(
        code(input::control_certificate),
        help("certificate, key and authority are PEM files; key and certificate belong together")
    )]
    Certificate {
        /// Which part.
        what: &'static str,
        /// What does not fit.
        reason: String,
    },
    /// The address is taken or not of this host.
    #[error("cannot listen on {address}")]
    #[diagnostic(
        code(input::control_listen),
        help("take port 0 for any free one, and an address of this host")
    )]
    Listen {
        /// The address.
        address: String,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// Threads or sockets are exhausted.
    #[error("cannot start the control plane's thread")]
    #[diagnostic(code(run::control_thread), help("look at the limits of this host: ulimit -u, ulimit -n"))]
    Thread {
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// Nobody answers.
    #[error("nobody answers at {address}: {reason}")]
    #[diagnostic(
        code(run::control_unreachable),
        help(
            "the run has ended or its host is gone; from another host it is reached only where the run listens with TLS on an address of its own"
        )
    )]
    Unreachable {
        /// The address.
        address: String,
        /// What was seen.
        reason: String,
    },
    /// Somebody answers, and cannot prove to be the one.
    #[error("who answers at {address} does not have the run's certificate: {reason}")]
    #[diagnostic(
        code(input::control_tls),
        help("another run may have taken the port since; read the endpoint again from the output folder")
    )]
    Tls {
        /// The address.
        address: String,
        /// What was seen.
        reason: String,
    },
    /// The token is not that of the run.
    #[error("the run at {address} refuses the token")]
    #[diagnostic(
        code(input::control_token),
        help("the token is another run's; read the endpoint again from the output folder")
    )]
    Refused {
        /// The address.
        address: String,
    },
    /// Something else listens there.
    #[error("what answers at {address} is no coordinator of gpart-dist: {reason}")]
    #[diagnostic(
        code(input::not_a_coordinator),
        help("the run has probably ended and another program has its port; check the address")
    )]
    NotACoordinator {
        /// The address.
        address: String,
        /// What was seen.
        reason: String,
    },
    /// The coordinator did not do what was asked.
    #[error("the run at {address} did not do it: {reason}")]
    #[diagnostic(code(run::control_failed), help("look at the run's log; gpart-dist status shows its state"))]
    Failed {
        /// The address.
        address: String,
        /// The coordinator's words.
        reason: String,
    },
}
