//! Where a pass is, for whoever measures it.

/// A part of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// Token embeddings.
    Embedding,
    /// Blocks, forward.
    Forward,
    /// Final norm, output projection, loss and their gradient.
    Head,
    /// Blocks, backward.
    Backward,
    /// θ → ΔW.
    Apply,
    /// dL/dW → sums over θ's groups.
    Reduce,
    /// Sums → the next θ.
    Update,
}

impl Part {
    /// All parts, in the order of a step.
    pub const ALL: [Self; 7] =
        [Self::Embedding, Self::Forward, Self::Head, Self::Backward, Self::Apply, Self::Reduce, Self::Update];

    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::Forward => "forward",
            Self::Head => "head",
            Self::Backward => "backward",
            Self::Apply => "apply",
            Self::Reduce => "reduce",
            Self::Update => "update",
        }
    }
}

/// Is told what a pass does next.
pub trait Probe {
    /// What was done is over, and this begins.
    fn enter(&self, part: Part);
}
