//! The README.md beside an adapter: what it is, how it was trained, how it is used.

use config::TrainConfig;

use crate::output::HeldOutLine;
use crate::{StepMetrics, Summary};

/// First line after the front matter; a README without it is somebody's own and is left alone.
pub(crate) const MARK: &str =
    "<!-- written by gpart-dist; a later run of the same folder writes it again -->";

/// Rows of the training table; more steps are thinned out evenly.
const ROWS: usize = 20;

/// What the card is about.
pub(crate) struct Card<'a> {
    pub config: &'a TrainConfig,
    /// The model as the adapter's files name it.
    pub base_model: &'a str,
    pub summary: &'a Summary,
    pub adapted: u64,
    pub metrics: &'a [StepMetrics],
    pub held_out: &'a [HeldOutLine],
}

impl Card<'_> {
    /// The card as Markdown, in the form that the Hugging Face hub reads.
    pub(crate) fn text(&self) -> String {
        // The hub knows names, not folders of the machine that trained.
        let front = match config::hub_id(&self.config.model).is_some() {
            true => format!(
                "base_model: {0}\nlibrary_name: peft\npipeline_tag: text-generation\ntags:\n- gpart\n\
                 - base_model:adapter:{0}\n",
                self.base_model
            ),
            false => "library_name: peft\npipeline_tag: text-generation\ntags:\n- gpart\n".to_owned(),
        };
        let title = config::run_name(self.config);
        format!(
            "---\n{front}---\n\n\
             {MARK}\n\n# {title}\n\n{}\n\n## Training\n\n{}\n{}\n## Settings\n\n{}\n## Use\n\n{}",
            self.introduction(),
            self.outcome(),
            self.table(),
            self.settings(),
            self.usage(),
        )
    }

    fn introduction(&self) -> String {
        let data = match config::hub_id(&self.config.data).is_some() {
            true => self.config.data.clone(),
            false => file_name(&self.config.data),
        };
        let TrainConfig { d, proj_seed, assignment_backend, partition_scope, grouping_strategy, .. } =
            self.config;
        format!(
            "A [GPart](https://arxiv.org/abs/2605.14841) adapter of `{}`: {d} trained numbers over {} adapted weights. \
             Partition: {assignment_backend} backend, seed {proj_seed}, scope {partition_scope}, grouping \
             {grouping_strategy}. Trained on `{}`.",
            self.base_model, self.adapted, data
        )
    }

    fn outcome(&self) -> String {
        let summary = self.summary;
        let mut text = format!("{} steps, {} tokens", summary.steps, summary.num_tokens);
        if let (Some(before), Some(after)) = (summary.held_out_before, summary.held_out_after) {
            text += &format!("; held-out loss {before:.4} → {after:.4} nats a token");
        }
        let norm = if self.config.isometric { "‖ΔW‖ = ‖θ‖" } else { "‖θ‖" };
        text + &format!("; {norm} = {:.4}.\n", summary.theta_norm)
    }

    /// The training loss of some steps, and every held-out loss.
    fn table(&self) -> String {
        let every = self.metrics.len().div_ceil(ROWS).max(1) as u64;
        let last = self.metrics.last().map_or(0, |metrics| metrics.step);
        let mut text =
            "| step | epoch | training loss | held-out loss | learning rate |\n|---|---|---|---|---|\n"
                .to_owned();
        let held_out = |step: u64| {
            let line = self.held_out.iter().find(|line| line.step == step);
            line.map_or(String::new(), |line| format!("{:.4}", line.loss))
        };
        if !held_out(0).is_empty() {
            text += &format!("| 0 | 0 | | {} | |\n", held_out(0));
        }
        for StepMetrics { step, epoch, loss, learning_rate, .. } in self.metrics {
            let held_out = held_out(*step);
            if step.is_multiple_of(every) || *step == last || !held_out.is_empty() {
                text += &format!("| {step} | {epoch:.2} | {loss:.4} | {held_out} | {learning_rate:.3e} |\n");
            }
        }
        text
    }

    fn settings(&self) -> String {
        let config = self.config;
        let mut text = "| setting | value |\n|---|---|\n".to_owned();
        for (name, value) in [
            ("d", config.d.to_string()),
            ("target modules", config.target_modules.join(", ")),
            ("dropout on ΔW", config.dropout.to_string()),
            (
                "learning rate",
                format!(
                    "{} ({}, warm-up {})",
                    config.learning_rate, config.lr_scheduler_type, config.warmup_ratio
                ),
            ),
            (
                "rows a step",
                format!(
                    "{} ({} × {})",
                    config.global_batch_size(),
                    config.micro_batch_size,
                    config.accumulation_steps
                ),
            ),
            ("epochs", config.epochs.to_string()),
            ("template", template(config)),
            ("trained on", config.train_on.to_string()),
            (
                "started from",
                config.init_adapter.as_ref().map_or("zero".to_owned(), |f| file_name(&f.to_string_lossy())),
            ),
            ("longest row", format!("{} tokens", config.max_seq_length)),
            ("weight decay, clipping", format!("{}, {}", config.weight_decay, config.max_grad_norm)),
            ("seed", config.seed.to_string()),
            ("dtype", config.dtype.to_string()),
            ("gpart-dist", env!("CARGO_PKG_VERSION").to_owned()),
        ] {
            text += &format!("| {name} | {} |\n", value.replace('|', "\\|"));
        }
        text
    }

    fn usage(&self) -> String {
        format!(
            "Stock `peft` has no GPart. Either use the fork of PEFT in the \
             [official repository](https://github.com/SamsungLabs/GPart):\n\n\
             ```python\nfrom transformers import AutoModelForCausalLM\nfrom peft import PeftModel  # the fork\n\n\
             base = AutoModelForCausalLM.from_pretrained({base})\n\
             model = PeftModel.from_pretrained(base, \"path/to/this/folder\")\n```\n\n\
             or merge it into a plain checkpoint, which transformers and vLLM load:\n\n\
             ```sh\ngpart-dist merge --model {quoted} --adapter path/to/this/folder --output merged\n```\n",
            base = serde_json::Value::from(self.base_model),
            quoted = shlex::try_quote(self.base_model).unwrap_or_default(),
        )
    }
}

/// How rows became text, in words.
fn template(config: &TrainConfig) -> String {
    match &config.template {
        None => "by the rows: official for questions with answers, the tokenizer's own for chats".to_owned(),
        Some(name) => file_name(name),
    }
}

/// The last part of a path: where it lies on the machine that trained is nobody's business.
fn file_name(path: &str) -> String {
    std::path::Path::new(path)
        .file_name()
        .map_or_else(|| path.to_owned(), |name| name.to_string_lossy().into_owned())
}
