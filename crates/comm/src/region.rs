//! Memory that messages are made of: page-aligned, zeroed, owned.

use std::ops::Range;
use std::sync::Arc;

use memmap2::{MmapMut, UncheckedAdvice};

/// Page-aligned memory of a fixed address and length, zero at first.
///
/// It is handed over to an operation that fills it, and comes back when that is done; its address stays the same.
#[derive(Debug)]
pub struct Region {
    map: MmapMut,
    length: usize,
}

impl Region {
    /// Memory of `length` bytes. No page is taken before it is touched.
    ///
    /// # Errors
    /// The system has no address space left.
    pub fn new(length: usize) -> std::io::Result<Self> {
        Ok(Self { map: MmapMut::map_anon(length.max(1))?, length })
    }

    /// A copy of `bytes`.
    ///
    /// # Errors
    /// As [`Region::new`].
    pub fn copy_of(bytes: &[u8]) -> std::io::Result<Self> {
        let mut region = Self::new(bytes.len())?;
        region.bytes_mut().copy_from_slice(bytes);
        Ok(region)
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.map[..self.length]
    }

    /// The bytes, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.map[..self.length]
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Uses the first `length` bytes alone from now on.
    ///
    /// # Panics
    /// The region was not made with that many.
    pub fn set_len(&mut self, length: usize) {
        assert!(length <= self.map.len(), "{length} bytes of a region of {}", self.map.len());
        self.length = length;
    }

    /// Moves the memory pages behind the first bytes of this region under those of `target`, as many as that has, with
    /// what is in them. Nothing is copied. What is read here afterwards is zero, like what was in `target` is gone.
    ///
    /// # Errors
    /// The system cannot do that (Linux can from 5.7 on); nothing has changed then.
    pub fn move_pages(&mut self, target: &mut Self) -> std::io::Result<()> {
        let length = target.map.len().min(self.map.len());
        // SAFETY: both ranges are mappings of their owners' alone, private and anonymous, which begin at a page; with
        // MREMAP_DONTUNMAP the old range stays mapped, so both owners keep what they own, and every byte stays readable.
        let moved = unsafe {
            libc::mremap(
                self.map.as_mut_ptr().cast(),
                length,
                length,
                libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP,
                target.map.as_mut_ptr().cast::<libc::c_void>(),
            )
        };
        match moved == libc::MAP_FAILED {
            true => Err(std::io::Error::last_os_error()),
            false => Ok(()),
        }
    }

    /// Gives the pages back to the system. What is read afterwards is zero.
    pub fn drop_pages(&mut self) {
        // SAFETY: the mapping is private and anonymous and this is its only owner, so all that is lost is its
        // content, which becomes zero. Failing to advise leaves the content as it is.
        let _ = unsafe { self.map.unchecked_advise(UncheckedAdvice::DontNeed) };
    }
}

/// Bytes of a region that nobody writes any more; cheap to clone.
#[derive(Debug, Clone)]
pub struct Piece {
    region: Arc<Region>,
    range: Range<usize>,
}

impl Piece {
    /// The bytes `range` of `region`.
    ///
    /// # Panics
    /// The range is not in the region.
    pub fn of(region: &Arc<Region>, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= region.len(), "{range:?} of {} bytes", region.len());
        Self { region: Arc::clone(region), range }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.region.bytes()[self.range.clone()]
    }
}

impl From<Region> for Piece {
    fn from(region: Region) -> Self {
        let range = 0..region.len();
        Self { region: Arc::new(region), range }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn pages_move_with_their_content() {
        let mut pages = Region::copy_of(&[5; 20_000]).unwrap();
        let mut target = Region::copy_of(&[9; 9_000]).unwrap();
        let address = target.bytes().as_ptr();
        for _ in 0..3 {
            pages.move_pages(&mut target).unwrap();
            assert_eq!(target.bytes().as_ptr(), address);
            assert!(target.bytes().iter().all(|byte| *byte == 5));
            // Whole pages move: three of the five, the rest stay.
            assert!(pages.bytes()[..9_000].iter().all(|byte| *byte == 0));
            assert!(pages.bytes()[12_288..].iter().all(|byte| *byte == 5));
            target.move_pages(&mut pages).unwrap();
            assert!(pages.bytes().iter().all(|byte| *byte == 5));
        }
    }

    #[test]
    fn dropped_pages_are_zero_and_keep_their_address() {
        let mut region = Region::copy_of(&[7; 10_000]).unwrap();
        let address = region.bytes().as_ptr();
        assert_eq!(address as usize % 4096, 0);
        region.drop_pages();
        assert!(region.bytes().iter().all(|byte| *byte == 0));
        assert_eq!(region.bytes().as_ptr(), address);
        assert_eq!(Piece::from(region).bytes().len(), 10_000);
        assert!(Region::new(0).unwrap().is_empty());
    }
}
