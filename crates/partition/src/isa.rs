use std::fmt;
use std::sync::OnceLock;

/// An instruction set that this processor was seen to have.
///
/// A value is a proof: it can only be had from detection, so holding one is what makes calling the vector kernels
/// sound. Every kernel gives the same bits on every instruction set; choosing one is for tests and benchmarks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Isa(IsaKind);

/// The instruction sets that the kernels are written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum IsaKind {
    /// Portable code, as the compiler makes it for the target's baseline.
    Scalar,
    /// x86-64 with AVX2.
    Avx2,
    /// x86-64 with AVX2 and AVX-512 F, DQ and VL.
    Avx512,
}

impl Isa {
    /// Portable code, which every processor runs.
    pub const SCALAR: Self = Self(IsaKind::Scalar);

    /// The widest instruction set of this processor; detected once.
    pub fn best() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Self(detect()))
    }

    /// Every instruction set of this processor, the portable one first.
    pub fn available() -> impl Iterator<Item = Self> {
        [IsaKind::Scalar, IsaKind::Avx2, IsaKind::Avx512]
            .into_iter()
            .filter(|kind| *kind <= Self::best().0)
            .map(Self)
    }

    /// Which one it is.
    pub const fn kind(self) -> IsaKind {
        self.0
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self.0 {
            IsaKind::Scalar => "scalar",
            IsaKind::Avx2 => "avx2",
            IsaKind::Avx512 => "avx512",
        })
    }
}

#[cfg(target_arch = "x86_64")]
fn detect() -> IsaKind {
    if !is_x86_feature_detected!("avx2") {
        return IsaKind::Scalar;
    }
    let wide = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    if wide { IsaKind::Avx512 } else { IsaKind::Avx2 }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> IsaKind {
    IsaKind::Scalar
}
