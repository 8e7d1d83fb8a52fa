//! The global weight space: the concatenation of all adapted weights in the model's module order.

use std::collections::BTreeSet;

use crate::selection::{Matcher, is_called};
use crate::{AdapterError, Selection, Targets};

/// A linear module of a model, as a candidate for adaptation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Full name relative to the model, such as `model.layers.0.self_attn.q_proj`.
    pub name: String,
    /// `[out, in]` of its weight.
    pub shape: [u64; 2],
    /// It has a bias, of `out` numbers.
    pub bias: bool,
}

/// A module that is adapted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdaptedModule {
    /// Position of the module among the candidates.
    pub candidate: usize,
    /// Full name relative to the model.
    pub name: String,
    /// `[out, in]` of its weight.
    pub shape: [u64; 2],
    /// Its bias is adapted too.
    pub bias: bool,
    /// Global index of the weight's first element; the others follow row-major, then the adapted bias.
    pub offset: u64,
}

/// All adapted weights (and biases), end to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdaptedSpace {
    modules: Vec<AdaptedModule>,
    total: u64,
}

/// The adapted part of one transformer block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScopeBlock {
    /// Path of the block, such as `model.layers.0`.
    pub name: String,
    /// Adapted weights in it.
    pub numel: u64,
}

impl AdaptedModule {
    /// Number of elements of the weight.
    pub fn weight_numel(&self) -> u64 {
        self.shape[0] * self.shape[1]
    }

    /// Number of elements of the adapted bias; 0 where there is none.
    pub fn bias_numel(&self) -> u64 {
        if self.bias { self.shape[0] } else { 0 }
    }

    /// Number of adapted elements.
    pub fn numel(&self) -> u64 {
        self.weight_numel() + self.bias_numel()
    }
}

impl AdaptedSpace {
    /// The modules among `candidates` (in the model's module order) that `selection` means, by PEFT's rules. The
    /// order of targets is of no consequence.
    ///
    /// # Errors
    /// [`AdapterError::UnknownModule`] for a target, [`AdapterError::UnknownLayer`] for a block number, that selects
    /// nothing; [`AdapterError::Pattern`] for a bad regular expression.
    pub fn select(candidates: &[Candidate], selection: &Selection) -> Result<Self, AdapterError> {
        let matcher = selection.matcher()?;
        if matcher.means_head()? {
            return Err(AdapterError::Head);
        }
        if selection.strict {
            check_names(candidates, selection)?;
        }
        let (mut modules, mut total) = (Vec::new(), 0);
        for (index, candidate) in candidates.iter().enumerate() {
            if matcher.matches(&candidate.name)? {
                let module = AdaptedModule {
                    candidate: index,
                    name: candidate.name.clone(),
                    shape: candidate.shape,
                    bias: selection.bias && candidate.bias,
                    offset: total,
                };
                total += module.numel();
                modules.push(module);
            }
        }
        // Where nothing is selected at all, that may be for the blocks and not for the names.
        if selection.strict || (modules.is_empty() && names_any(candidates, selection)) {
            check_layers(&modules, selection, &matcher)?;
        }
        match (modules.is_empty(), &selection.targets) {
            (false, _) => Ok(Self { modules, total }),
            (true, Targets::Regex(text)) => Err(AdapterError::NothingMatches {
                pattern: text.clone(),
                example: candidates.first().map(|candidate| candidate.name.clone()).unwrap_or_default(),
            }),
            (true, Targets::Names(names)) => Err(unknown(candidates, &names.join(","))),
            (true, Targets::AllLinear) => Err(unknown(candidates, "all-linear")),
        }
    }

    /// The adapted modules, by offset.
    pub fn modules(&self) -> &[AdaptedModule] {
        &self.modules
    }

    /// Number of adapted weights, biases included.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The transformer blocks that have adapted weights, in the model's order, which for numbered blocks is the
    /// natural order of their names. A block is the first component of a module's name that is a container
    /// (`layers`, `layer`, `h`, `block`, `blocks`, or one of `patterns`), followed by a number.
    ///
    /// # Errors
    /// [`AdapterError::NoBlock`] for an adapted module outside any block.
    pub fn blocks(&self, patterns: &[String]) -> Result<Vec<ScopeBlock>, AdapterError> {
        let mut blocks: Vec<ScopeBlock> = Vec::new();
        for module in &self.modules {
            let name = block_of(&module.name, patterns)
                .ok_or_else(|| AdapterError::NoBlock { module: module.name.clone() })?;
            match blocks.last_mut().filter(|block| block.name == name) {
                Some(block) => block.numel += module.numel(),
                None => blocks.push(ScopeBlock { name: name.to_owned(), numel: module.numel() }),
            }
        }
        Ok(blocks)
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

/// The leading part of a module's name that names its block.
fn block_of<'a>(module: &'a str, patterns: &[String]) -> Option<&'a str> {
    const CONTAINERS: [&str; 5] = ["layers", "layer", "h", "block", "blocks"];
    let mut end = 0;
    let mut after_container = false;
    for component in module.split('.') {
        end += component.len();
        if after_container && !component.is_empty() && component.bytes().all(|byte| byte.is_ascii_digit()) {
            return Some(&module[..end]);
        }
        after_container =
            CONTAINERS.contains(&component) || patterns.iter().any(|pattern| pattern == component);
        end += 1;
    }
    None
}

fn check_names(candidates: &[Candidate], selection: &Selection) -> Result<(), AdapterError> {
    let Targets::Names(names) = &selection.targets else { return Ok(()) };
    match names.iter().find(|target| !candidates.iter().any(|c| is_called(&c.name, target))) {
        Some(target) => Err(unknown(candidates, target)),
        None => Ok(()),
    }
}

/// Whether a target, blocks aside, means a module.
fn names_any(candidates: &[Candidate], selection: &Selection) -> bool {
    let Targets::Names(names) = &selection.targets else { return true };
    names.iter().any(|target| candidates.iter().any(|c| is_called(&c.name, target)))
}

fn check_layers(
    modules: &[AdaptedModule],
    selection: &Selection,
    matcher: &Matcher<'_>,
) -> Result<(), AdapterError> {
    // Once for all numbers, of which there may be many: the expressions take their time.
    let layers = &selection.layers_to_transform;
    let modules = modules.iter().filter(|_| !layers.is_empty());
    let blocks: BTreeSet<u64> =
        modules.filter_map(|module| matcher.block(&module.name).transpose()).collect::<Result<_, _>>()?;
    match layers.iter().find(|layer| !blocks.contains(layer)) {
        Some(layer) => Err(AdapterError::UnknownLayer { layer: *layer }),
        None => Ok(()),
    }
}

fn unknown(candidates: &[Candidate], target: &str) -> AdapterError {
    let mut names: Vec<&str> = Vec::new();
    for name in candidates.iter().filter_map(|c| c.name.rsplit('.').next()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    AdapterError::UnknownModule { target: target.to_owned(), available: names.join(", ") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn candidates() -> Vec<Candidate> {
        [
            "m.layers.0.q_proj",
            "m.layers.0.k_proj",
            "m.layers.1.q_proj",
            "m.layers.1.big_q_proj",
            "m.layers.10.q_proj",
        ]
        .map(|name| Candidate { name: name.to_owned(), shape: [4, 2], bias: name.ends_with("q_proj") })
        .to_vec()
    }

    fn names(names: &[&str]) -> Selection {
        Selection::of_names(names.iter().copied())
    }

    #[test]
    fn targets_match_whole_components_in_module_order() {
        let check = |selection: Selection, expect: &[(&str, u64)]| {
            let space = AdaptedSpace::select(&candidates(), &selection).unwrap();
            let found: Vec<(&str, u64)> = space
                .modules()
                .iter()
                .map(|m| (m.name.strip_prefix("m.layers.").unwrap(), m.offset))
                .collect();
            assert_eq!(found, expect);
        };
        check(names(&["q_proj"]), &[("0.q_proj", 0), ("1.q_proj", 8), ("10.q_proj", 16)]);
        let both: &[_] = &[("0.q_proj", 0), ("0.k_proj", 8), ("1.q_proj", 16), ("10.q_proj", 24)];
        check(names(&["k_proj", "q_proj"]), both);
        check(names(&["m.layers.1.big_q_proj"]), &[("1.big_q_proj", 0)]);
        check(names(&["0.k_proj"]), &[("0.k_proj", 0)]);
        let regex = |text: &str| Selection { targets: Targets::Regex(text.to_owned()), ..names(&[]) };
        check(regex(r".*\.1\..*"), &[("1.q_proj", 0), ("1.big_q_proj", 8)]);
        check(regex(r"m\.layers\.\d\.(?!big)q_proj|x"), &[("0.q_proj", 0), ("1.q_proj", 8)]);
        let all = Selection { targets: Targets::AllLinear, bias: true, ..names(&[]) };
        let with_biases: &[_] =
            &[("0.q_proj", 0), ("0.k_proj", 12), ("1.q_proj", 20), ("1.big_q_proj", 32), ("10.q_proj", 44)];
        check(all, with_biases);
        let of_layers = |layers: &[u64], pattern: &[&str]| Selection {
            layers_to_transform: layers.to_vec(),
            layers_pattern: pattern.iter().map(|p| (*p).to_owned()).collect(),
            ..names(&["q_proj", "k_proj"])
        };
        check(of_layers(&[0], &[]), &[("0.q_proj", 0), ("0.k_proj", 8)]);
        check(of_layers(&[10, 1], &["h", "lay.rs"]), &[("1.q_proj", 0), ("10.q_proj", 8)]);
    }

    #[test]
    fn what_selects_nothing_is_refused() {
        let check = |selection: Selection, expect: &str| {
            let error = AdaptedSpace::select(&candidates(), &selection).unwrap_err().to_string();
            assert!(error.contains(expect), "{error} lacks {expect}");
        };
        check(names(&["q_proj", "v_proj"]), "'v_proj'");
        let regex = |text: &str| Selection { targets: Targets::Regex(text.to_owned()), ..names(&[]) };
        check(regex("q_proj"), "'regex:q_proj' matches no linear module");
        check(regex(".*"), "lm_head");
        check(names(&["q_proj", "lm_head"]), "lm_head");
        check(regex("(q_proj"), "--target-modules '(q_proj'");
        // Backtracks without end on names that nearly match.
        check(regex(r"(?:(?=.)[a-z.0-9_]+)+(?!.)\1!|((a*)*)*b\2"), "--target-modules");
        check(
            Selection { layers_to_transform: vec![0, 7], ..names(&["q_proj"]) },
            "no adapted module of block 7",
        );
        check(Selection { layers_to_transform: vec![1], ..regex(".*") }, "layers-to-transform");
        check(
            Selection {
                layers_to_transform: vec![1],
                layers_pattern: vec!["(".to_owned()],
                ..names(&["q_proj"])
            },
            "--layers-pattern '('",
        );
    }

    #[test]
    fn files_may_name_more_than_there_is() {
        let lenient =
            Selection { strict: false, layers_to_transform: vec![0, 99], ..names(&["q_proj", "x_proj"]) };
        assert_eq!(AdaptedSpace::select(&candidates(), &lenient).unwrap().modules().len(), 1);
        let error = |selection: Selection| {
            AdaptedSpace::select(&candidates(), &Selection { strict: false, ..selection }).unwrap_err()
        };
        assert!(matches!(error(names(&["x_proj"])), AdapterError::UnknownModule { .. }));
        let layers = Selection { layers_to_transform: vec![99], ..names(&["q_proj", "x_proj"]) };
        assert!(matches!(error(layers), AdapterError::UnknownLayer { layer: 99 }));
        let neither = Selection { layers_to_transform: vec![99], ..names(&["x_proj"]) };
        assert!(matches!(error(neither), AdapterError::UnknownModule { .. }));
    }

    #[test]
    fn a_long_list_of_layers_takes_no_longer_than_its_modules() {
        let modules = (0..300).map(|block| format!("m.layers.{block}.q_proj"));
        let modules: Vec<_> = modules.map(|name| Candidate { name, shape: [2, 2], bias: false }).collect();
        let layers = (0..1_000_000).map(|i| i % 300).collect();
        let space =
            AdaptedSpace::select(&modules, &Selection { layers_to_transform: layers, ..names(&["q_proj"]) });
        assert_eq!(space.unwrap().modules().len(), 300);
    }

    #[test]
    fn blocks_are_counted_in_order() {
        let all = Selection { targets: Targets::AllLinear, ..names(&[]) };
        let space = AdaptedSpace::select(&candidates(), &all).unwrap();
        let blocks: Vec<_> = space.blocks(&[]).unwrap().into_iter().map(|b| (b.name, b.numel)).collect();
        let expect = [("m.layers.0", 16), ("m.layers.1", 16), ("m.layers.10", 8)];
        assert_eq!(blocks, expect.map(|(name, numel)| (name.to_owned(), numel)));
        let odd = [Candidate { name: "m.stack.3.q_proj".to_owned(), shape: [2, 2], bias: false }];
        let space = AdaptedSpace::select(&odd, &names(&["q_proj"])).unwrap();
        assert!(space.blocks(&[]).unwrap_err().to_string().contains("m.stack.3.q_proj"));
        assert_eq!(space.blocks(&["stack".to_owned()]).unwrap()[0].name, "m.stack.3");
    }

    #[test]
    fn a_theta_longer_than_its_weights_is_refused() {
        let space = AdaptedSpace::select(&candidates(), &names(&["k_proj"])).unwrap();
        assert!(space.check_d(8).is_ok());
        assert!(space.check_d(9).is_err());
    }

    proptest! {
        #[test]
        fn any_subset_lies_end_to_end(
            picked in proptest::collection::vec(any::<bool>(), 12), bias in any::<bool>(),
        ) {
            let all: Vec<Candidate> = (0..12)
                .map(|i| Candidate {
                    name: format!("model.layers.{}.p{}", i / 3, i % 3), shape: [i + 1, 5], bias: i % 2 == 0,
                })
                .collect();
            let chosen: Vec<String> =
                all.iter().zip(&picked).filter(|(_, p)| **p).map(|(c, _)| c.name.clone()).collect();
            prop_assume!(!chosen.is_empty());
            let selection = Selection { bias, ..Selection::of_names(chosen.iter().rev().cloned()) };
            let space = AdaptedSpace::select(&all, &selection).unwrap();
            let mut end = 0;
            for (module, name) in space.modules().iter().zip(&chosen) {
                prop_assert_eq!(&module.name, name);
                prop_assert_eq!(module.offset, end);
                end += module.shape[0] * 5 + if bias && module.candidate % 2 == 0 { module.shape[0] } else { 0 };
            }
            prop_assert_eq!(space.total(), end);
            let by_block: u64 = space.blocks(&[]).unwrap().iter().map(|block| block.numel).sum();
            prop_assert_eq!(by_block, end);
        }
    }
}
