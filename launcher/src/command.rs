//! The command of a run, as it is started again: on fewer ranks, from what there is.

use crate::program::Mesh;

/// Flags that say how ranks share the work.
pub const MESH_FLAGS: [&str; 3] = ["dp-replicate", "dp-shard", "pp"];

impl Mesh {
    /// Whether so many ranks can be shared out in this way. What was not said follows from the ranks.
    pub fn fits(&self, ranks: usize) -> bool {
        let product = self.product();
        match (self.dp_replicate, self.dp_shard) {
            (Some(_), Some(_)) => product == ranks,
            _ => product > 0 && ranks.is_multiple_of(product),
        }
    }

    /// The most ranks, up to `ranks`, that can be shared out in this way.
    pub fn most(&self, ranks: usize) -> Option<usize> {
        (1..=ranks).rev().find(|ranks| self.fits(*ranks))
    }

    fn product(&self) -> usize {
        let degrees = [self.dp_replicate, self.dp_shard, self.pp];
        degrees.into_iter().flatten().fold(1, usize::saturating_mul)
    }
}

/// The command without flags of these names, and the words that were left out.
pub fn without_flags(command: &[String], names: &[&str]) -> (Vec<String>, Vec<String>) {
    let (mut kept, mut left_out) = (Vec::new(), Vec::new());
    let mut words = command.iter();
    while let Some(word) = words.next() {
        // Both spellings, `--dp-shard` and the official scripts' `--dp_shard`.
        let name = word.strip_prefix("--").map(|flag| flag.replace('_', "-"));
        let (name, has_value) = match name.as_deref().map(|flag| flag.split_once('=')) {
            Some(Some((name, _))) => (Some(name.to_owned()), true),
            Some(None) => (name, false),
            None => (None, false),
        };
        if !name.is_some_and(|name| names.contains(&name.as_str())) {
            kept.push(word.clone());
            continue;
        }
        left_out.push(word.clone());
        if !has_value {
            left_out.extend(words.next().cloned());
        }
    }
    (kept, left_out)
}

/// The command that goes on from what the run has saved, whatever the first one was to begin with.
pub fn resuming(command: &[String]) -> Vec<String> {
    let (mut kept, left_out) = without_flags(command, &["resume"]);
    if !left_out.is_empty() {
        kept.extend(["--resume".to_owned(), "auto".to_owned()]);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn flags_are_left_out_in_every_spelling() {
        let (kept, left_out) = without_flags(
            &words("metamath --pp 2 --model m --dp-shard=2 --dp_replicate 1 --ppx 3"),
            &MESH_FLAGS,
        );
        assert_eq!(kept, words("metamath --model m --ppx 3"));
        assert_eq!(left_out, words("--pp 2 --dp-shard=2 --dp_replicate 1"));
    }

    #[test]
    fn a_restart_resumes() {
        assert_eq!(resuming(&words("train --resume never --d 4")), words("train --d 4 --resume auto"));
        assert_eq!(resuming(&words("train --d 4")), words("train --d 4"));
    }

    #[test]
    fn meshes_fit_or_not() {
        let mesh = |r: usize, s: usize, p: usize| {
            let said = |degree: usize| Some(degree).filter(|degree| *degree > 0);
            Mesh { dp_replicate: said(r), dp_shard: said(s), pp: said(p) }
        };
        assert!(mesh(0, 0, 0).fits(5) && mesh(0, 2, 2).fits(8) && mesh(2, 2, 1).fits(4));
        assert!(!mesh(2, 2, 1).fits(8) && !mesh(0, 2, 2).fits(6));
        assert_eq!(mesh(0, 2, 2).most(7), Some(4));
        assert_eq!(mesh(2, 2, 2).most(7), None);
    }
}
