//! What a person sees of a run: a progress bar on a terminal, plain lines elsewhere.

use std::io::Write;
use std::path::Path;
use std::sync::Mutex;

use config::{Progress, Resolved, Source, Task};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use trainer::{Event, StartInfo, StepMetrics, Summary};

use crate::format::{bytes, counted, grouped, print, scientific, seconds, wrapped};
use crate::terminal;

/// The view of a run.
pub struct Ui {
    style: Style,
    logging_steps: u64,
    model: String,
    /// Said beside the partition at the start.
    about_partition: &'static str,
    isometric: bool,
    state: Mutex<State>,
}

/// What is being shown.
struct State {
    bar: ProgressBar,
    /// The bar counts steps, not the units of a stage.
    training: bool,
    first_step: u64,
    total_steps: u64,
}

#[derive(Clone, Copy, PartialEq)]
enum Style {
    Bar,
    Plain,
    Silent,
}

impl Ui {
    /// The view that `--progress` asks for.
    pub fn new(resolved: &Resolved) -> Self {
        let config = &resolved.config;
        let style = match config.progress {
            Progress::Bar => Style::Bar,
            Progress::Plain => Style::Plain,
            Progress::None => Style::Silent,
            Progress::Auto if terminal::is_terminal() => Style::Bar,
            Progress::Auto => Style::Plain,
        };
        Self {
            style,
            logging_steps: config.logging_steps.max(1) as u64,
            model: config.model.clone(),
            isometric: config.isometric,
            about_partition: match resolved.source("assignment-backend") {
                Source::Default if config.task == Task::Metamath => {
                    "\n            (the official script's own is materialized: --preset official)"
                }
                _ => "",
            },
            state: Mutex::new(State {
                bar: ProgressBar::hidden(),
                training: false,
                first_step: 0,
                total_steps: 0,
            }),
        }
    }

    /// Shows an event.
    pub fn event(&self, event: Event<'_>) {
        match event {
            Event::Stage(what) => self.stage(what),
            Event::Progress { done, total } => self.progress(done, total),
            Event::Warning(text) => self.warning(&text),
            Event::Start(start) => self.start(start),
            Event::Step(metrics) => self.step(metrics),
            Event::HeldOut { step, loss, before } => self.held_out(step, loss, before),
            Event::Sample { step, prompt, text } => self.sample(step, prompt, text),
            Event::Stopped { step, total, output } => self.stopped(step, total, output),
            Event::Saved { .. } => {}
        }
    }

    /// Shows how the download of `id` is getting on.
    pub fn download(&self, id: &str, event: hub::Event<'_>) {
        match event {
            hub::Event::Waiting { .. } => {
                self.line(&format!("waiting for another process that downloads {id} …"))
            }
            hub::Event::Start { files, bytes: size } => {
                self.clear();
                self.line(&format!("downloading {id}: {}, {}", counted(files as u64, "file"), bytes(size)));
            }
            hub::Event::File { name, index, of, done, total } => self.file(name, (index, of), done, total),
            hub::Event::Retry { reason, wait } => {
                self.warning(&format!("{reason}; trying again in {}", seconds(wait.as_secs_f64())));
            }
            _ => {}
        }
    }

    fn file(&self, name: &str, (index, of): (usize, usize), done: u64, total: u64) {
        let message = format!("{name} ({index} of {of})");
        match self.style {
            Style::Bar => {
                let mut state = lock(&self.state);
                if state.bar.message() != message || state.bar.is_finished() {
                    state.bar.finish_and_clear();
                    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stdout());
                    bar.set_style(style(
                        "{msg} {wide_bar:.cyan/black.bright} {bytes}/{total_bytes}  eta {eta}",
                    ));
                    bar.set_message(message);
                    (state.bar, state.training) = (bar, false);
                }
                state.bar.set_position(done);
            }
            // One line a file, when it is whole: pipes and logs are read afterwards.
            Style::Plain if done == total => self.line(&format!("  {message}  {}", bytes(total))),
            Style::Plain | Style::Silent => {}
        }
    }

    /// Shows a warning.
    pub fn warning(&self, text: &str) {
        let line = format!("warning: {text}\n");
        self.with_bar(|bar| {
            bar.suspend(|| {
                let _ = std::io::stderr().write_all(line.as_bytes());
            });
        });
    }

    /// Shows what a finished run came to, and what to do next.
    pub fn summary(&self, summary: &Summary) {
        self.with_bar(|bar| bar.finish_and_clear());
        if self.style == Style::Silent {
            return;
        }
        let folder = summary.output.display();
        let mut text = match summary.steps_now {
            0 => format!("\nthis run was complete: {}\n", counted(summary.steps, "step")),
            now if now == summary.steps => format!(
                "\ndone: {} in {}, {} tokens\n",
                counted(now, "step"),
                seconds(summary.seconds_now),
                grouped(summary.num_tokens)
            ),
            now => format!(
                "\ndone: {}, {} tokens; {now} of the steps now, in {}\n",
                counted(summary.steps, "step"),
                grouped(summary.num_tokens),
                seconds(summary.seconds_now)
            ),
        };
        if let (Some(before), Some(after)) = (summary.held_out_before, summary.held_out_after) {
            text += &format!(
                "  held-out loss  {before:.4} → {after:.4}  ({:+.4} nats a token)\n",
                after - before
            );
        }
        text += &format!("  adapter        {folder}  ({})\n", bytes(summary.adapter_bytes));
        let norm = if self.isometric { "‖ΔW‖ = ‖θ‖    " } else { "‖θ‖           " };
        text += &format!("  {norm} {:.4}\n", summary.theta_norm);
        text += "next:\n";
        let quoted = |text: &str| shlex::try_quote(text).map_or_else(|_| text.to_owned(), |q| q.into_owned());
        let path = summary.output.to_string_lossy();
        text += &format!("  {} inspect adapter {}\n", quoted(&program()), quoted(&path));
        let events = summary.output.join("tensorboard");
        if events.is_dir() {
            let events = quoted(&events.to_string_lossy());
            text += &format!("  tensorboard --logdir {events}   # pip install tensorboard\n");
        }
        text += &format!(
            "  {} merge --adapter {} --output MERGED   # for transformers and vLLM\n",
            quoted(&program()),
            quoted(&path)
        );
        if summary.model_card {
            let card = format!("{folder}/README.md");
            text += &format!("  {card}   # what was trained, and how the adapter is used in Python\n");
        }
        self.line(text.trim_end_matches('\n'));
    }

    /// Says that the run stopped early, and how it goes on.
    fn stopped(&self, step: u64, total: u64, output: &Path) {
        self.with_bar(|bar| bar.finish_and_clear());
        self.line(&format!(
            "stopped after step {step} of {total}; everything is saved in {}, and the same command goes on from there",
            output.display()
        ));
    }

    fn start(&self, start: &StartInfo) {
        self.clear();
        self.line(&start_text(start, &self.model, self.about_partition));
        let mut state = lock(&self.state);
        (state.first_step, state.total_steps) = (start.first_step, start.total_steps);
    }

    fn step(&self, metrics: &StepMetrics) {
        let StepMetrics { step, epoch, loss, grad_norm, learning_rate, tokens_per_second, .. } = metrics;
        let total = lock(&self.state).total_steps;
        if self.style == Style::Bar {
            self.begin_training();
            self.with_bar(|bar| {
                bar.set_message(format!("loss {loss:.4} · {tokens_per_second:.0} tokens/s"));
                bar.set_position(*step);
            });
        }
        let due = *step == 1 || step.is_multiple_of(self.logging_steps) || *step == total;
        if self.style == Style::Plain && due {
            self.line(&format!(
                "step {step}/{total}  epoch {epoch:.2}  loss {loss:.4}  grad norm {grad_norm:.4}  \
                 lr {learning_rate}  {tokens_per_second:.0} tokens/s",
                learning_rate = scientific(*learning_rate)
            ));
        }
    }

    /// Replaces whatever bar there is by the one over steps.
    fn begin_training(&self) {
        let mut state = lock(&self.state);
        if state.training {
            return;
        }
        state.bar.finish_and_clear();
        let bar = ProgressBar::with_draw_target(Some(state.total_steps), ProgressDrawTarget::stdout());
        bar.set_style(style("step {pos}/{len} {bar:32.cyan/black.bright} {msg}  eta {eta}"));
        bar.set_position(state.first_step);
        bar.reset_eta();
        (state.bar, state.training) = (bar, true);
    }

    fn held_out(&self, step: u64, loss: f64, before: Option<f64>) {
        let before = before.map(|before| format!("  (was {before:.4})")).unwrap_or_default();
        self.line(&format!("held-out loss after step {step}: {loss:.4} nats a token{before}"));
    }

    fn sample(&self, step: u64, prompt: &str, text: &str) {
        self.clear();
        let when = if step == 0 { "before training".to_owned() } else { format!("after step {step}") };
        let body = wrapped(&format!("{prompt}▸{text}"), "  │ ");
        self.line(&format!("sample {when} (the continuation begins at ▸)\n{body}"));
    }

    fn stage(&self, what: &'static str) {
        match self.style {
            Style::Bar => {
                let mut state = lock(&self.state);
                // Held-out losses in the middle of training leave the bar as it is.
                let midway = state.training && state.bar.position() < state.total_steps;
                if !midway {
                    state.bar.finish_and_clear();
                    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
                    bar.set_style(style("{spinner} {msg}"));
                    bar.set_message(what);
                    bar.enable_steady_tick(std::time::Duration::from_millis(100));
                    (state.bar, state.training) = (bar, false);
                }
            }
            Style::Plain => self.line(&format!("{what} …")),
            Style::Silent => {}
        }
    }

    fn progress(&self, done: u64, total: u64) {
        let state = lock(&self.state);
        if state.bar.length().is_none() {
            state.bar.set_style(style("{msg} {wide_bar:.cyan/black.bright} {pos}/{len}"));
        }
        // In this order: a second piece of work on the same bar must not show the first one's position.
        state.bar.set_position(done);
        state.bar.set_length(total);
    }

    fn clear(&self) {
        self.with_bar(|bar| bar.finish_and_clear());
    }

    fn line(&self, text: &str) {
        if self.style != Style::Silent {
            self.with_bar(|bar| bar.suspend(|| print(text)));
        }
    }

    fn with_bar(&self, act: impl FnOnce(&ProgressBar)) {
        act(&lock(&self.state).bar);
    }
}

impl Drop for Ui {
    /// An error that comes next stands in a place of its own.
    fn drop(&mut self) {
        self.clear();
    }
}

/// This program as it was called, so that a command can be copied.
fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "gpart-dist".to_owned())
}

fn start_text(start: &StartInfo, model: &str, about_partition: &str) -> String {
    let ranks = counted(start.ranks as u64, "rank");
    let threads = counted(start.threads as u64, "thread");
    let epochs = format!("{:.2}", start.epochs);
    let epochs = match epochs.trim_end_matches('0').trim_end_matches('.') {
        "1" => "1 epoch".to_owned(),
        other => format!("{other} epochs"),
    };
    let resumed = match start.first_step {
        0 => String::new(),
        step => format!(", resumed after step {step}"),
    };
    let mesh = mesh_words(start).map_or_else(String::new, |words| format!("  mesh      {words}\n"));
    format!(
        "gpart-dist {version}\n\
         \x20 model     {model}: {parameters} parameters, {dtype}\n\
         \x20 adapter   θ of {d} numbers over {adapted} weights of {modules} modules ({min} to {max} a number)\n\
         \x20 partition {partition}{about_partition}\n\
         \x20 data      {rows} rows, {tokens} tokens\n\
         \x20 step      {per_step} rows = {micro} micro-batches of {size} over {ranks} ({threads} each, {backend})\n\
         {mesh}\
         \x20 run       {steps}, {epochs} → {output}{resumed}",
        version = env!("CARGO_PKG_VERSION"),
        parameters = grouped(start.parameters),
        dtype = start.dtype,
        d = grouped(start.d),
        adapted = grouped(start.adapted),
        modules = start.modules,
        min = grouped(start.group_sizes.0),
        max = grouped(start.group_sizes.1),
        partition = start.partition,
        rows = grouped(start.rows as u64),
        tokens = grouped(start.tokens),
        per_step = start.rows_per_step,
        micro = start.micro_batches,
        size = start.micro_batch_size,
        backend = start.backend,
        steps = counted(start.total_steps, "step"),
        epochs = epochs,
        output = start.output.display(),
    )
}

/// How several ranks share the work, and what of the model each holds; nothing for one rank.
fn mesh_words(start: &StartInfo) -> Option<String> {
    let mesh::Degrees { dp_replicate, dp_shard, pp } = start.mesh;
    let axes = [("dp-replicate", dp_replicate), ("dp-shard", dp_shard), ("pp", pp)];
    let used = axes.iter().filter(|(_, degree)| *degree > 1).map(|(axis, degree)| format!("{axis} {degree}"));
    let used = used.collect::<Vec<String>>().join(" × ");
    let sizes: Vec<String> = start.stages.iter().map(|blocks| blocks.len().to_string()).collect();
    let held = match (pp > 1, dp_shard > 1) {
        (false, false) => "each rank holds the whole model".to_owned(),
        (false, true) => format!("each rank holds 1/{dp_shard} of every block"),
        (true, false) => format!("stages of {} blocks", sizes.join(", ")),
        (true, true) => {
            format!("stages of {} blocks, each rank holds 1/{dp_shard} of its stage's", sizes.join(", "))
        }
    };
    let carried = format!("\n            {}", start.carried_by);
    let cheapest = start.cheapest_mesh.as_ref().map_or_else(String::new, |flags| {
        format!("\n            (cheapest that fits: {flags}; `gpart-dist plan` compares them)")
    });
    (!used.is_empty()).then(|| format!("{used}: {held}{carried}{cheapest}"))
}

/// Prints the resolved settings: key, value, origin.
pub fn show_settings(resolved: &Resolved, json: bool) {
    let rows = config::render(resolved);
    if json {
        let mut typed = serde_json::to_value(&resolved.config).unwrap_or_default();
        // Where it goes, whether or not that was said.
        typed["output"] = resolved.config.output_dir().to_string_lossy().into();
        let entry = |row: &config::Row| {
            let value = typed.get(row.key).cloned().unwrap_or_else(|| row.value.clone().into());
            (row.key.to_owned(), serde_json::json!({"value": value, "from": row.origin.to_string()}))
        };
        let map: serde_json::Map<String, serde_json::Value> = rows.iter().map(entry).collect();
        print(&serde_json::to_string_pretty(&map).unwrap_or_default());
        return;
    }
    let width = |get: &dyn Fn(&config::Row) -> usize| rows.iter().map(get).max().unwrap_or(0);
    let keys = width(&|row| row.key.len());
    let values = width(&|row| row.value.chars().count()).min(44);
    for row in &rows {
        print(&format!("{:keys$}  {:values$}  {}", row.key, row.value.replace('\n', "\\n"), row.origin));
    }
    for warning in &resolved.warnings {
        let _ = writeln!(std::io::stderr(), "warning: {warning}");
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━━─")
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
