//! The page that Prometheus reads. It carries no secret and takes no input but the path.

use std::fmt::Write;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::service::Shared;
use crate::status::Status;

/// Requests that are read or answered at once; more have to wait.
const AT_ONCE: usize = 16;
/// The longest head of a request, in bytes.
const HEAD: usize = 8 << 10;
/// How long a request and its answer may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// Answers requests until the runtime ends.
pub(crate) async fn serve(listener: TcpListener, shared: Shared) {
    let places = std::sync::Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
    loop {
        let Ok(place) = std::sync::Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let shared = shared.clone();
                tokio::spawn(async move {
                    // Whoever is slow or leaves gets no answer; there is nobody to tell.
                    let _ = tokio::time::timeout(DEADLINE, answer(stream, shared)).await;
                    drop(place);
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn answer(mut stream: TcpStream, shared: Shared) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        let mut piece = [0; 1024];
        let read = stream.read(&mut piece).await?;
        if read == 0 || head.len() + read > HEAD {
            return Ok(());
        }
        head.extend_from_slice(&piece[..read]);
    }
    let line = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|&byte| byte == b' ');
    let (status, body) = match (words.next(), words.next()) {
        (Some(b"GET"), Some(b"/metrics")) => {
            let status = shared.lock().status(shared.now());
            ("200 OK", page(&status))
        }
        (Some(b"GET"), _) => ("404 Not Found", "metrics are at /metrics\n".into()),
        _ => ("405 Method Not Allowed", "only GET is answered\n".into()),
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

/// The metrics of a run in Prometheus's text format.
fn page(status: &Status) -> String {
    let mut page = Page::default();
    page.one("gpart_up_seconds", "How long the coordinator has been there.", Some(status.up_seconds));
    page.one("gpart_attempt", "Which start of the run this is, from 1.", Some(f64::from(status.attempt)));
    page.one("gpart_restarts", "How often the run was restarted.", Some(f64::from(status.restarts)));
    page.one("gpart_ranks", "How many ranks the run has.", Some(status.rank_count as f64));
    page.one("gpart_step", "The newest completed step.", Some(status.step as f64));
    page.one("gpart_steps", "How many steps the run will have.", Some(status.total_steps as f64));
    page.one(
        "gpart_durable_step",
        "The newest step on the disk.",
        status.durable_step.map(|step| step as f64),
    );
    page.one("gpart_loss", "Mean loss of the newest step.", status.loss);
    page.one("gpart_tokens_per_second", "Tokens of all ranks by the second.", status.tokens_per_second);
    page.one("gpart_step_seconds", "The median of recent steps.", status.step_seconds);
    page.one("gpart_eta_seconds", "How long the rest will take.", status.eta_seconds);
    page.one("gpart_findings", "How many things are wrong.", Some(status.findings.len() as f64));
    page.of_ranks("gpart_rank_connected", "Whether its stream is open.", status, |rank| {
        Some(f64::from(u8::from(rank.connected)))
    });
    page.of_ranks("gpart_rank_step", "The step in progress.", status, |rank| {
        rank.step.map(|step| step as f64)
    });
    page.of_ranks("gpart_rank_heard_seconds", "Since its last report.", status, |rank| {
        Some(rank.heard_seconds)
    });
    page.of_ranks("gpart_rank_phase_seconds", "For how long it has been in its phase.", status, |rank| {
        Some(rank.phase_seconds)
    });
    page.of_ranks("gpart_rank_memory_bytes", "Memory in use on its device.", status, |rank| {
        rank.memory_bytes.map(|bytes| bytes as f64)
    });
    page.of_ranks("gpart_rank_memory_peak_bytes", "The most memory so far.", status, |rank| {
        rank.memory_peak_bytes.map(|bytes| bytes as f64)
    });
    page.of_ranks("gpart_rank_step_seconds", "How long its newest step took.", status, |rank| {
        rank.step_seconds
    });
    page.of_ranks(
        "gpart_rank_waited_seconds",
        "How long it waited in collectives of that step.",
        status,
        |rank| rank.waited_seconds,
    );
    page.collectives(status);
    page.0
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn one(&mut self, name: &str, help: &str, value: Option<f64>) {
        if let Some(value) = value {
            self.head(name, help);
            self.line(name, "", value);
        }
    }

    fn of_ranks(
        &mut self,
        name: &str,
        help: &str,
        status: &Status,
        value: impl Fn(&crate::status::RankStatus) -> Option<f64>,
    ) {
        self.head(name, help);
        for rank in &status.ranks {
            if let Some(value) = value(rank) {
                let host = quoted(&rank.host);
                self.line(name, &format!("{{rank=\"{}\",host={host}}}", rank.rank), value);
            }
        }
    }

    fn collectives(&mut self, status: &Status) {
        let name = "gpart_rank_collective_seconds";
        self.head(name, "How long it waited in each collective of its newest step.");
        for rank in &status.ranks {
            for (collective, &seconds) in &rank.waited_in {
                let (host, collective) = (quoted(&rank.host), quoted(collective));
                let labels = format!("{{rank=\"{}\",host={host},collective={collective}}}", rank.rank);
                self.line(name, &labels, seconds);
            }
        }
    }

    fn head(&mut self, name: &str, help: &str) {
        self.push(format_args!("# HELP {name} {help}\n# TYPE {name} gauge\n"));
    }

    fn line(&mut self, name: &str, labels: &str, value: f64) {
        // The format spells what is not finite its own way.
        match value {
            value if value.is_nan() => self.push(format_args!("{name}{labels} NaN\n")),
            value if value.is_infinite() => {
                let sign = if value > 0.0 { '+' } else { '-' };
                self.push(format_args!("{name}{labels} {sign}Inf\n"));
            }
            value => self.push(format_args!("{name}{labels} {value}\n")),
        }
    }

    fn push(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing into a string does not fail.
        let _ = self.0.write_fmt(text);
    }
}

/// A label's value; control characters were taken out when it arrived.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
