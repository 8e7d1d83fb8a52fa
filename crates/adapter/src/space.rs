//! The global weight space: the concatenation of all adapted weights in the model's module order.

use crate::AdapterError;

/// A linear module of a model, as a candidate for adaptation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Full name relative to the model, such as `model.layers.0.self_attn.q_proj`.
    pub name: String,
    /// `[out, in]` of its weight.
    pub shape: [u64; 2],
}

/// A module whose weight is adapted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdaptedModule {
    /// Position of the module among the candidates.
    pub candidate: usize,
    /// Full name relative to the model.
    pub name: String,
    /// `[out, in]` of its weight.
    pub shape: [u64; 2],
    /// Global index of the weight's first element; the others follow row-major.
    pub offset: u64,
}

/// All adapted weights, end to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdaptedSpace {
    modules: Vec<AdaptedModule>,
    total: u64,
}

impl AdaptedModule {
    /// Number of weights.
    pub fn numel(&self) -> u64 {
        self.shape[0] * self.shape[1]
    }
}

impl AdaptedSpace {
    /// The modules among `candidates` (in the model's module order) that `targets` select. A target selects a
    /// module whose full name it is, or whose name ends in `.target`, as in PEFT. The order of targets is of no
    /// consequence.
    ///
    /// # Errors
    /// [`AdapterError::UnknownModule`] for a target that selects nothing.
    pub fn select(candidates: &[Candidate], targets: &[String]) -> Result<Self, AdapterError> {
        for target in targets {
            if !candidates.iter().any(|c| matches(&c.name, target)) {
                return Err(AdapterError::UnknownModule {
                    target: target.clone(),
                    available: last_components(candidates),
                });
            }
        }
        let mut total = 0;
        let mut modules = Vec::new();
        for (index, candidate) in candidates.iter().enumerate() {
            if targets.iter().any(|target| matches(&candidate.name, target)) {
                let module = AdaptedModule {
                    candidate: index,
                    name: candidate.name.clone(),
                    shape: candidate.shape,
                    offset: total,
                };
                total += module.numel();
                modules.push(module);
            }
        }
        Ok(Self { modules, total })
    }

    /// The adapted modules, by offset.
    pub fn modules(&self) -> &[AdaptedModule] {
        &self.modules
    }

    /// Number of adapted weights.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Refuses a θ longer than the weights it moves: some of its numbers could never learn.
    ///
    /// # Errors
    /// [`AdapterError::TooManyCoordinates`].
    pub fn check_d(&self, d: u64) -> Result<(), AdapterError> {
        match d > self.total {
            true => Err(AdapterError::TooManyCoordinates { d, weights: self.total }),
            false => Ok(()),
        }
    }
}

fn matches(name: &str, target: &str) -> bool {
    name == target || name.strip_suffix(target).is_some_and(|rest| rest.ends_with('.'))
}

fn last_components(candidates: &[Candidate]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for name in candidates.iter().filter_map(|c| c.name.rsplit('.').next()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn candidates() -> Vec<Candidate> {
        ["m.0.q_proj", "m.0.k_proj", "m.1.q_proj", "m.1.big_q_proj"]
            .map(|name| Candidate { name: name.to_owned(), shape: [4, 2] })
            .to_vec()
    }

    #[test]
    fn targets_match_whole_components_in_module_order() {
        let check = |targets: &[&str], expect: &[(&str, u64)]| {
            let targets: Vec<String> = targets.iter().map(|t| (*t).to_owned()).collect();
            let space = AdaptedSpace::select(&candidates(), &targets).unwrap();
            let found: Vec<(&str, u64)> =
                space.modules().iter().map(|m| (m.name.as_str(), m.offset)).collect();
            assert_eq!(found, expect);
        };
        check(&["q_proj"], &[("m.0.q_proj", 0), ("m.1.q_proj", 8)]);
        check(&["k_proj", "q_proj"], &[("m.0.q_proj", 0), ("m.0.k_proj", 8), ("m.1.q_proj", 16)]);
        check(&["m.1.big_q_proj"], &[("m.1.big_q_proj", 0)]);
        check(&["0.k_proj"], &[("m.0.k_proj", 0)]);
    }

    #[test]
    fn unknown_targets_and_large_d_are_refused() {
        let error = AdaptedSpace::select(&candidates(), &["v_proj".to_owned()]).unwrap_err();
        assert!(error.to_string().contains("'v_proj'"));
        let space = AdaptedSpace::select(&candidates(), &["k_proj".to_owned()]).unwrap();
        assert!(space.check_d(8).is_ok());
        assert!(space.check_d(9).is_err());
    }
}
