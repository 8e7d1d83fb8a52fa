//! A look at what training would see, without training.

use std::path::Path;

use config::TrainConfig;
use data::Piece;
use model::ModelConfig;

use crate::inputs::{Corpus, tokenizer};
use crate::{Sources, TrainError};

/// The tokens of the first `rows` training rows, each with whether it is trained on.
///
/// # Errors
/// As for a training: the model's configuration, tokenizer, rows or template cannot be used.
pub fn first_rows(
    config: &TrainConfig,
    sources: &Sources,
    rows: usize,
) -> Result<Vec<Vec<Piece>>, TrainError> {
    let model_config = ModelConfig::from_folder(Path::new(&sources.model))?;
    let tokenizer = tokenizer(config, &sources.model, &model_config)?;
    let corpus = Corpus { config, sources, tokenizer: &tokenizer, cache_dir: None, observe: &|_| () };
    let dataset = corpus.first(rows)?;
    Ok((0..dataset.len()).map(|row| tokenizer.pieces(dataset.example(row))).collect())
}
