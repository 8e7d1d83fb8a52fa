//! Reading and writing an adapter folder.

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::{AdapterConfig, AdapterError};

/// Name of θ in `adapter_model.safetensors`.
pub const THETA_TENSOR: &str = "base_model.gpart_theta_d";

const CONFIG_FILE: &str = "adapter_config.json";
const TENSOR_FILE: &str = "adapter_model.safetensors";

/// The files of an adapter's folder.
pub const ADAPTER_FILES: [&str; 2] = [CONFIG_FILE, TENSOR_FILE];

/// An adapter: configuration and θ.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter {
    /// The configuration.
    pub config: AdapterConfig,
    /// θ, length d.
    pub theta: Vec<f32>,
}

impl Adapter {
    /// Reads an adapter folder, ours or the official fork's.
    ///
    /// # Errors
    /// Missing or damaged files, another kind of adapter, a part of GPart that is not built.
    pub fn read(folder: &Path) -> Result<Self, AdapterError> {
        let unreadable = |path: &Path| {
            let path = path.to_owned();
            move |source| AdapterError::Unreadable { path, source }
        };
        let config_path = folder.join(CONFIG_FILE);
        let text = std::fs::read_to_string(&config_path).map_err(unreadable(&config_path))?;
        let config = AdapterConfig::from_json(&text, &config_path)?;
        let tensor_path = folder.join(TENSOR_FILE);
        let bytes = std::fs::read(&tensor_path).map_err(unreadable(&tensor_path))?;
        let invalid = |reason: String| AdapterError::Invalid {
            path: tensor_path.clone(),
            reason,
            hint: "the file is damaged, or belongs to another adapter_config.json".to_owned(),
        };
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| invalid(e.to_string()))?;
        let names = tensors.names();
        if let Some(other) =
            names.iter().find(|name| **name != THETA_TENSOR).filter(|_| names.contains(&THETA_TENSOR))
        {
            return Err(AdapterError::OtherTensor { path: tensor_path.clone(), tensor: (*other).to_owned() });
        }
        let theta = tensors
            .tensor(THETA_TENSOR)
            .map_err(|_| invalid(format!("it has no tensor {THETA_TENSOR}; it holds {names:?}")))?;
        if theta.dtype() != Dtype::F32 || theta.shape() != [config.d as usize] {
            let (dtype, shape) = (theta.dtype(), theta.shape());
            return Err(invalid(format!("{THETA_TENSOR} is {dtype:?} {shape:?}, not F32 [{}]", config.d)));
        }
        let numbers = theta.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let theta: Vec<f32> = numbers.collect();
        match theta.iter().position(|x| !x.is_finite()) {
            Some(at) => Err(invalid(format!("{THETA_TENSOR}[{at}] is {}", theta[at]))),
            None => Ok(Self { config, theta }),
        }
    }

    /// Keys of a folder's `adapter_config.json` that mean nothing here; to be told to the user.
    pub fn unknown_keys(folder: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(folder.join(CONFIG_FILE)).unwrap_or_default();
        AdapterConfig::unknown_keys(&text)
    }

    /// Writes the adapter into `folder`, each file atomically. Returns the bytes written.
    ///
    /// # Errors
    /// [`AdapterError::Write`].
    pub fn write(&self, folder: &Path) -> Result<u64, AdapterError> {
        let data: &[u8] = bytemuck::cast_slice(&self.theta);
        let view = TensorView::new(Dtype::F32, vec![self.theta.len()], data)
            .unwrap_or_else(|_| unreachable!("the bytes are those of the vector"));
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let tensors = safetensors::serialize([(THETA_TENSOR, view)], Some(metadata))
            .unwrap_or_else(|_| unreachable!("one plain tensor always serialises"));
        let config = serde_json::to_string_pretty(&self.config)
            .unwrap_or_else(|_| unreachable!("the configuration is plain JSON"));
        checkpoint::write_atomic(&folder.join(TENSOR_FILE), &[&tensors])?;
        checkpoint::write_atomic(&folder.join(CONFIG_FILE), &[config.as_bytes()])?;
        Ok((tensors.len() + config.len()) as u64)
    }
}
