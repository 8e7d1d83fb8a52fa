/// The kernels' source and the header that it includes.
pub(super) const SOURCE: &str = include_str!("kernels.cu");
pub(super) const HEADER: &str = include_str!("arithmetic.cuh");
#[cfg(feature = "cuda")]
pub(super) const HEADER_NAME: &str = "arithmetic.cuh";

/// What a compiled image depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageKey {
    /// NVRTC's major and minor version.
    pub nvrtc: (i32, i32),
    /// What it is compiled for, such as `sm_90`.
    pub architecture: String,
    /// All options of the compiler.
    pub options: Vec<String>,
}

impl ImageKey {
    /// Everything that decides about the image, the source included, with no two keys alike: what to hash for a name.
    pub fn bytes(&self) -> Vec<u8> {
        let version = format!("{}.{}", self.nvrtc.0, self.nvrtc.1);
        let words = [SOURCE, HEADER, &version, &self.architecture];
        let words = words.into_iter().chain(self.options.iter().map(String::as_str));
        let mut bytes = Vec::new();
        for word in words {
            bytes.extend((word.len() as u64).to_le_bytes());
            bytes.extend(word.as_bytes());
        }
        bytes
    }
}

/// Where compiled kernels are kept between runs. Failing to is never an error: they are compiled again.
pub trait ImageCache {
    /// The image that was stored under this key, unless it is not there or damaged.
    fn load(&self, key: &ImageKey) -> Option<Vec<u8>>;

    /// Keeps an image.
    fn store(&self, key: &ImageKey, image: &[u8]);
}

/// Keeps nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoCache;

impl ImageCache for NoCache {
    fn load(&self, _: &ImageKey) -> Option<Vec<u8>> {
        None
    }

    fn store(&self, _: &ImageKey, _: &[u8]) {}
}

#[cfg(test)]
mod tests {
    use super::ImageKey;

    #[test]
    fn every_part_of_a_key_counts() {
        let key = |minor, architecture: &str, options: &[&str]| {
            let options = options.iter().map(|option| (*option).to_owned()).collect();
            ImageKey { nvrtc: (13, minor), architecture: architecture.to_owned(), options }.bytes()
        };
        let keys = [
            key(0, "sm_90", &["--fmad=false"]),
            key(1, "sm_90", &["--fmad=false"]),
            key(0, "sm_80", &["--fmad=false"]),
            key(0, "sm_90", &[]),
            key(0, "sm_90", &["--fmad", "=false"]),
        ];
        for (k, a) in keys.iter().enumerate() {
            assert!(keys[..k].iter().all(|b| a != b));
        }
    }
}
