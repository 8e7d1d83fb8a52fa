//! Names → files: a model or dataset that is no path on this disk comes from the hub's cache, or from the hub.

use std::path::{Path, PathBuf};

use config::TrainConfig;
use hub::{Hub, Want};
use trainer::{Sources, TrainError};

use crate::format::{bytes, counted, seconds};
use crate::report;

/// Where the inputs of a run lie, downloaded if need be. What can be refused without a download is refused before one.
pub fn sources(
    config: &TrainConfig,
    notify: &mut dyn FnMut(&str, hub::Event<'_>),
) -> Result<Sources, TrainError> {
    let eval_data = config.eval_data.as_ref().map(|path| path.to_string_lossy().into_owned());
    for data in std::iter::once(&config.data).chain(&eval_data) {
        check_file(data)?;
    }
    let places = Places { revision: config.revision.as_deref() };
    let (folder, base_model) = places.model(&config.model, Want::WithoutWeights, notify)?;
    trainer::check_settings(config, &folder, &base_model)?;
    let data = places.data(&config.data, notify)?;
    let eval_data = eval_data.map_or(Ok(Vec::new()), |data| places.data(&data, notify))?;
    let model = match config.show_samples {
        // A look at tokens needs no weights.
        Some(_) => folder,
        None => places.model(&config.model, Want::Everything, notify)?.0,
    };
    Ok(Sources { model, base_model, data, eval_data })
}

/// Refuses a file of rows that is not there.
fn check_file(location: &str) -> Result<(), TrainError> {
    let path = Path::new(location);
    match config::hub_id(location).is_none() && !path.exists() {
        true => Err(data::Error::DataMissing { path: path.to_owned() }.into()),
        false => Ok(()),
    }
}

/// The disk and the hub behind it, as the environment has it set up. Its variables matter where a name is looked up.
pub struct Places<'a> {
    /// Branch, tag or commit of a model that comes from the hub.
    pub revision: Option<&'a str>,
}

impl Places<'_> {
    /// The model's folder, and the model as adapter files name it.
    pub fn model(
        &self,
        location: &str,
        want: Want,
        notify: &mut dyn FnMut(&str, hub::Event<'_>),
    ) -> Result<(PathBuf, String), TrainError> {
        match config::hub_id(location) {
            None => Ok((PathBuf::from(location), location.to_owned())),
            Some(id) => {
                let mut notify = |event: hub::Event<'_>| notify(&id, event);
                let folder = hub()?.model(&id, self.revision, want, &mut notify)?;
                Ok((folder, id))
            }
        }
    }

    /// The files of a dataset.
    pub fn data(
        &self,
        location: &str,
        notify: &mut dyn FnMut(&str, hub::Event<'_>),
    ) -> Result<Vec<PathBuf>, TrainError> {
        match config::hub_id(location) {
            None => Ok(vec![Path::new(location).to_owned()]),
            Some(id) => {
                let mut notify = |event: hub::Event<'_>| notify(&id, event);
                Ok(hub()?.dataset(&id, None, &mut notify)?)
            }
        }
    }
}

/// Says on standard error how a download is getting on: what a command prints is its answer alone.
pub fn note_download(id: &str, event: hub::Event<'_>) {
    match event {
        hub::Event::Waiting { .. } => {
            report::note(&format!("waiting for another process that downloads {id} …"));
        }
        hub::Event::Start { files, bytes: size } => {
            report::note(&format!("downloading {id}: {}, {}", counted(files as u64, "file"), bytes(size)));
        }
        hub::Event::File { name, index, of, done, total } if done == total => {
            report::note(&format!("  {name} ({index} of {of})  {}", bytes(total)));
        }
        hub::Event::Retry { reason, wait } => {
            report::warning(&format!("{reason}; trying again in {}", seconds(wait.as_secs_f64())));
        }
        _ => {}
    }
}

fn hub() -> Result<Hub, TrainError> {
    Ok(Hub::from_env(&|name| std::env::var_os(name))?)
}
