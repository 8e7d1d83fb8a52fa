//! Names → files: a model or dataset that is no path on this disk comes from the hub's cache, or from the hub.

use std::path::{Path, PathBuf};

use config::TrainConfig;
use hub::{Hub, Want};
use trainer::{Sources, TrainError};

/// Where the inputs of a run lie, downloaded if need be.
pub fn sources(
    config: &TrainConfig,
    notify: &mut dyn FnMut(&str, hub::Event<'_>),
) -> Result<Sources, TrainError> {
    let hub = Places::new(config.revision.as_deref())?;
    let (model, base_model) = hub.model(&config.model, Want::Everything, notify)?;
    let data = hub.data(&config.data, notify)?;
    let eval_data = match &config.eval_data {
        Some(path) => hub.data(&path.to_string_lossy(), notify)?,
        None => Vec::new(),
    };
    Ok(Sources { model, base_model, data, eval_data })
}

/// The hub, as the environment has it set up.
pub struct Places<'a> {
    hub: Hub,
    revision: Option<&'a str>,
}

impl<'a> Places<'a> {
    /// `revision` is that of the model, if it comes from the hub.
    pub fn new(revision: Option<&'a str>) -> Result<Self, TrainError> {
        Ok(Self { hub: Hub::from_env(&|name| std::env::var_os(name))?, revision })
    }

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
                let folder = self.hub.model(&id, self.revision, want, &mut notify)?;
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
                Ok(self.hub.dataset(&id, None, &mut notify)?)
            }
        }
    }
}
