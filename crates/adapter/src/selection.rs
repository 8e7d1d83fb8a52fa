//! Which linear modules of a model an adapter touches, by PEFT's rules.

use fancy_regex::{Regex, RegexBuilder};

use crate::AdapterError;

/// The modules that are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Targets {
    /// A module whose full name is one of these, or ends in a dot and one of these.
    Names(Vec<String>),
    /// A module whose full name this regular expression matches from end to end.
    Regex(String),
    /// Every linear module of the transformer blocks; the output head is none of them.
    AllLinear,
}

/// What of a model is adapted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// The modules.
    pub targets: Targets,
    /// Only modules of the blocks with these numbers; none or empty: of all.
    pub layers_to_transform: Vec<u64>,
    /// Names (regular expressions) of the containers that number the blocks; empty: whatever precedes the last
    /// number of a module's name.
    pub layers_pattern: Vec<String>,
    /// The biases of the chosen modules follow their weights into the partition.
    pub bias: bool,
    /// Every name and block number must select something: right for settings, where one that does not is a slip. PEFT
    /// is content when anything is selected, and so must whoever reads its files be.
    pub strict: bool,
}

impl Selection {
    /// The weights of the modules with these names, in all blocks.
    pub fn of_names(names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let names = names.into_iter().map(Into::into).collect();
        Self {
            targets: Targets::Names(names),
            layers_to_transform: Vec::new(),
            layers_pattern: Vec::new(),
            bias: false,
            strict: true,
        }
    }

    /// The test that this selection puts to module names.
    ///
    /// # Errors
    /// [`AdapterError::Pattern`] for an expression that does not parse, [`AdapterError::LayersOfPattern`] for block
    /// numbers beside anything but a list of names.
    pub(crate) fn matcher(&self) -> Result<Matcher<'_>, AdapterError> {
        let regex = match &self.targets {
            Targets::Regex(text) => Some(compile("--target-modules", &format!("^(?:{text})$"), text)?),
            _ => None,
        };
        if !self.layers_to_transform.is_empty() && !matches!(self.targets, Targets::Names(_)) {
            return Err(AdapterError::LayersOfPattern);
        }
        // The expressions are PEFT's: greedy, so that the last number of a name counts.
        let numbers = match self.layers_pattern.is_empty() {
            true => vec![compile("layers", r"^.*\.[^.]*\.(\d+)\.", "")?],
            false => {
                let number =
                    |text: &String| compile("--layers-pattern", &format!(r"^.*\.{text}\.(\d+)\."), text);
                self.layers_pattern.iter().map(number).collect::<Result<_, _>>()?
            }
        };
        Ok(Matcher { selection: self, regex, numbers })
    }
}

/// A compiled selection.
pub(crate) struct Matcher<'a> {
    selection: &'a Selection,
    regex: Option<Regex>,
    numbers: Vec<Regex>,
}

impl Matcher<'_> {
    /// Whether PEFT would adapt the output head.
    pub(crate) fn means_head(&self) -> Result<bool, AdapterError> {
        match self.selection.targets {
            Targets::AllLinear => Ok(false),
            _ => self.matches(HEAD),
        }
    }

    /// Whether the module of that full name is adapted.
    ///
    /// # Errors
    /// [`AdapterError::Pattern`] when an expression gives up on the name.
    pub(crate) fn matches(&self, name: &str) -> Result<bool, AdapterError> {
        let targeted = match &self.selection.targets {
            Targets::AllLinear => true,
            Targets::Names(names) => names.iter().any(|target| is_called(name, target)),
            Targets::Regex(text) => match &self.regex {
                Some(regex) => regex.is_match(name).map_err(|e| pattern("--target-modules", text, &e))?,
                None => false,
            },
        };
        let layers = &self.selection.layers_to_transform;
        if !targeted || layers.is_empty() {
            return Ok(targeted);
        }
        Ok(self.block(name)?.is_some_and(|block| layers.contains(&block)))
    }

    /// The number of the block that a module belongs to.
    pub(crate) fn block(&self, name: &str) -> Result<Option<u64>, AdapterError> {
        for regex in &self.numbers {
            let captures =
                regex.captures(name).map_err(|e| pattern("--layers-pattern", regex.as_str(), &e))?;
            if let Some(number) = captures.and_then(|found| found.get(1)?.as_str().parse().ok()) {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }
}

/// The output head: PEFT would adapt it where it is named, and then every offset after it would be another.
pub(crate) const HEAD: &str = "lm_head";

/// PEFT's rule for a name in a list of targets.
pub(crate) fn is_called(name: &str, target: &str) -> bool {
    name == target || name.strip_suffix(target).is_some_and(|rest| rest.ends_with('.'))
}

fn compile(flag: &'static str, expression: &str, written: &str) -> Result<Regex, AdapterError> {
    /// Far above what a module's name needs; an expression that backtracks without end is refused.
    const STEPS: usize = 100_000;
    RegexBuilder::new(expression).backtrack_limit(STEPS).build().map_err(|e| pattern(flag, written, &e))
}

fn pattern(flag: &'static str, written: &str, error: &fancy_regex::Error) -> AdapterError {
    let reason = error.to_string().lines().next().unwrap_or_default().to_owned();
    AdapterError::Pattern { flag, pattern: written.to_owned(), reason }
}
