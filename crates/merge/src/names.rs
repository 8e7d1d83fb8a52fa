//! Whether an adapter names the model that it is merged into.

use std::path::Path;

/// The part of a model's name or folder that people keep when they move it: `Llama-3.1-8B` of
/// `meta-llama/Llama-3.1-8B`, of `/models/Llama-3.1-8B`, and of a snapshot folder in the Hugging Face cache.
pub(crate) fn short_name(name: &str) -> String {
    let components: Vec<&str> = name.split(['/', '\\']).filter(|c| !c.is_empty() && *c != ".").collect();
    let cached = components.iter().find_map(|c| c.strip_prefix("models--"));
    let last = cached.map_or(components.last().copied(), |repo| repo.rsplit("--").next());
    last.unwrap_or_default().to_lowercase()
}

/// A sentence for the user where the adapter names another model than the one in `folder`.
pub(crate) fn mismatch(adapter_base: Option<&str>, folder: &Path) -> Option<String> {
    let named = adapter_base.filter(|name| !name.trim().is_empty())?;
    let resolved = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let fits =
        [folder, &resolved].iter().any(|path| short_name(&path.to_string_lossy()) == short_name(named));
    (!fits).then(|| {
        format!(
            "the adapter was trained on '{named}', and is merged into {}; is that the same model?",
            folder.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::{mismatch, short_name};

    #[test]
    fn names_of_one_model_agree() {
        for name in [
            "meta-llama/Llama-3.1-8B",
            "/models/llama-3.1-8b/",
            "Llama-3.1-8B",
            "/c/hub/models--meta-llama--Llama-3.1-8B/snapshots/0e9e39f249a16976918f6564b8830bc894c89659",
            "C:\\models\\Llama-3.1-8B",
        ] {
            assert_eq!(short_name(name), "llama-3.1-8b", "{name}");
        }
        let folder = std::path::Path::new("/models/Llama-3.1-8B");
        assert!(mismatch(Some("meta-llama/Llama-3.1-8B-Instruct"), folder).is_some());
        for fitting in [None, Some(""), Some("meta-llama/Llama-3.1-8B")] {
            assert_eq!(mismatch(fitting, folder), None);
        }
    }
}
