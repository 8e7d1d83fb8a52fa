//! What ranks say: taken apart by rank, put together line by line, prefixed.

use std::collections::BTreeMap;

/// How a launcher marks whose output it hands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marks {
    /// `[1,3]<stdout>:` before every piece, also in the middle of a line.
    OpenMpi {
        /// A blank follows (since 5.0).
        blank: bool,
    },
    /// `[3] ` at the beginning of a line.
    Hydra,
    /// `3: ` at the beginning of a line.
    Slurm,
}

/// A longest mark; more is text.
const LONGEST_MARK: usize = 96;

/// Whether bytes begin with a mark.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Mark {
        length: usize,
        rank: usize,
    },
    Text,
    /// They end before that can be told.
    Unknown,
}

impl Marks {
    fn at_line_start_only(self) -> bool {
        !matches!(self, Self::OpenMpi { .. })
    }

    fn find(self, bytes: &[u8]) -> Found {
        let window = &bytes[..bytes.len().min(LONGEST_MARK)];
        let text = match window.iter().position(|byte| *byte == b'\n') {
            Some(end) => &window[..end],
            None => window,
        };
        let is_cut = text.len() == bytes.len() && bytes.len() < LONGEST_MARK;
        match self.parse(text) {
            Some(found) => found,
            None if is_cut => Found::Unknown,
            None => Found::Text,
        }
    }

    /// None: neither a mark nor certainly none, as far as the text goes.
    fn parse(self, text: &[u8]) -> Option<Found> {
        let number = |digits: &[u8]| std::str::from_utf8(digits).ok()?.parse().ok();
        match self {
            Self::OpenMpi { blank } => {
                let Some(inner) = text.strip_prefix(b"[") else { return Some(Found::Text) };
                let end = inner.iter().position(|byte| *byte == b']')?;
                let comma = inner[..end].iter().rposition(|byte| *byte == b',');
                let rank = comma.and_then(|comma| number(&inner[comma + 1..end]));
                let Some(rank) = rank else { return Some(Found::Text) };
                let rest = &inner[end + 1..];
                for stream in ["<stdout>:", "<stderr>:"] {
                    let stream = if blank { format!("{stream} ") } else { stream.to_owned() };
                    if rest.starts_with(stream.as_bytes()) {
                        return Some(Found::Mark { length: end + 2 + stream.len(), rank });
                    }
                    if stream.as_bytes().starts_with(rest) {
                        return None;
                    }
                }
                Some(Found::Text)
            }
            Self::Hydra => {
                let Some(inner) = text.strip_prefix(b"[") else { return Some(Found::Text) };
                let digits = inner.iter().take_while(|byte| byte.is_ascii_digit()).count();
                if inner.len() < digits + 2 {
                    return None;
                }
                let rank = number(&inner[..digits]).filter(|_| inner[digits..].starts_with(b"] "));
                Some(rank.map_or(Found::Text, |rank| Found::Mark { length: digits + 3, rank }))
            }
            Self::Slurm => {
                // Numbers are padded to the width of the largest.
                let blanks = text.iter().take_while(|byte| **byte == b' ').count();
                let digits = text[blanks..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                let rest = &text[blanks + digits..];
                if rest.len() < 2 && b": ".starts_with(rest) {
                    return None;
                }
                let rank = number(&text[blanks..blanks + digits]).filter(|_| rest.starts_with(b": "));
                Some(rank.map_or(Found::Text, |rank| Found::Mark { length: blanks + digits + 2, rank }))
            }
        }
    }
}

/// A piece of output: whose, and what. Of no rank: the launcher's (mpirun, srun) own.
pub type Piece = (Option<usize>, Vec<u8>);

/// Takes one stream of marked output apart.
#[derive(Debug)]
pub struct Splitter {
    marks: Marks,
    /// Read, but not yet told whether it begins a mark.
    held: Vec<u8>,
    rank: Option<usize>,
    at_line_start: bool,
}

impl Splitter {
    /// For output with such marks.
    pub fn new(marks: Marks) -> Self {
        Self { marks, held: Vec::new(), rank: None, at_line_start: true }
    }

    /// The next bytes.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Piece> {
        self.held.extend_from_slice(bytes);
        self.split(false)
    }

    /// There are no more.
    pub fn finish(&mut self) -> Vec<Piece> {
        self.split(true)
    }

    fn split(&mut self, at_end: bool) -> Vec<Piece> {
        let held = std::mem::take(&mut self.held);
        let mut pieces: Vec<Piece> = Vec::new();
        let mut at = 0;
        while at < held.len() {
            let may_begin = match self.marks.at_line_start_only() {
                true => self.at_line_start,
                false => held[at] == b'[' || self.at_line_start,
            };
            match if may_begin { self.marks.find(&held[at..]) } else { Found::Text } {
                Found::Mark { length, rank } => {
                    (self.rank, self.at_line_start) = (Some(rank), false);
                    at += length;
                    continue;
                }
                Found::Unknown if !at_end => {
                    self.held = held[at..].to_vec();
                    return pieces;
                }
                Found::Text | Found::Unknown if self.at_line_start => self.rank = None,
                Found::Text | Found::Unknown => {}
            }
            let byte = held[at];
            match pieces.last_mut() {
                Some((rank, bytes)) if *rank == self.rank => bytes.push(byte),
                _ => pieces.push((self.rank, vec![byte])),
            }
            self.at_line_start = byte == b'\n';
            at += 1;
        }
        pieces
    }
}

/// Puts lines together: pieces of several ranks may come between the pieces of a line.
#[derive(Debug, Default)]
pub struct Lines {
    begun: BTreeMap<Option<usize>, Vec<u8>>,
}

impl Lines {
    /// Lines that a piece completes, without their ends.
    pub fn feed(&mut self, (rank, bytes): &Piece) -> Vec<(Option<usize>, String)> {
        let line = self.begun.entry(*rank).or_default();
        let mut whole = Vec::new();
        for byte in bytes {
            match byte {
                b'\n' => whole.push((*rank, text_of(&std::mem::take(line)))),
                byte => line.push(*byte),
            }
        }
        whole
    }

    /// What never got an end.
    pub fn finish(&mut self) -> Vec<(Option<usize>, String)> {
        let begun = std::mem::take(&mut self.begun);
        let left = begun.into_iter().filter(|(_, line)| !line.is_empty());
        left.map(|(rank, line)| (rank, text_of(&line))).collect()
    }
}

/// Of a line that was written over (`\r`) the last version counts.
fn text_of(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let last = line.rsplit(|byte| *byte == b'\r').next().unwrap_or(line);
    String::from_utf8_lossy(last).into_owned()
}

/// A line as it is shown.
pub fn shown(rank: Option<usize>, text: &str) -> String {
    match rank {
        Some(rank) => format!("[rank {rank}] {text}\n"),
        None => format!("{text}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of a stream, whatever pieces it comes in.
    fn lines(marks: Marks, text: &str) -> Vec<(Option<usize>, String)> {
        let mut expected = None;
        for size in [1, 2, 3, 7, 1000] {
            let (mut splitter, mut lines) = (Splitter::new(marks), Lines::default());
            let mut found = Vec::new();
            for chunk in text.as_bytes().chunks(size) {
                splitter.feed(chunk).iter().for_each(|piece| found.extend(lines.feed(piece)));
            }
            splitter.finish().iter().for_each(|piece| found.extend(lines.feed(piece)));
            found.extend(lines.finish());
            assert_eq!(*expected.get_or_insert_with(|| found.clone()), found, "in pieces of {size}");
        }
        expected.unwrap_or_default()
    }

    fn own(rank: impl Into<Option<usize>>, text: &str) -> (Option<usize>, String) {
        (rank.into(), text.to_owned())
    }

    #[test]
    fn open_mpi_marks_pieces() {
        let text = "[1,0]<stdout>:hello\n[1,0]<stdout>:par[1,12]<stderr>:an error\n[1,0]<stdout>:tial\n\
                    mpirun noticed [it]\n[1,1]<stdout>:[a] [1,x]\n[1,1]<stdout>:without end";
        let expected = [
            own(0, "hello"),
            own(12, "an error"),
            own(0, "partial"),
            own(None, "mpirun noticed [it]"),
            own(1, "[a] [1,x]"),
            own(1, "without end"),
        ];
        assert_eq!(lines(Marks::OpenMpi { blank: false }, text), expected);
        let text = "[prterun-a-12@1,3]<stdout>: hello\n";
        assert_eq!(lines(Marks::OpenMpi { blank: true }, text), [own(3, "hello")]);
    }

    #[test]
    fn what_is_written_over_counts_once() {
        let text = "[1,0]<stdout>:step 1\rstep 2\r[1,0]<stdout>:step 3\r\n";
        assert_eq!(lines(Marks::OpenMpi { blank: false }, text), [own(0, "step 3")]);
    }

    #[test]
    fn others_mark_lines() {
        let text = "[0] hello\n[10] there [1] x\nno mark\n[x] y\n";
        let expected = [own(0, "hello"), own(10, "there [1] x"), own(None, "no mark"), own(None, "[x] y")];
        assert_eq!(lines(Marks::Hydra, text), expected);
        let text = "0: hello\n 1: a: 2: b\nsrun: error: x\n";
        let expected = [own(0, "hello"), own(1, "a: 2: b"), own(None, "srun: error: x")];
        assert_eq!(lines(Marks::Slurm, text), expected);
    }

    #[test]
    fn pieces_come_at_once() {
        let mut splitter = Splitter::new(Marks::OpenMpi { blank: false });
        let pieces = splitter.feed(b"[1,0]<stdout>:a bar\r");
        assert_eq!(pieces, [(Some(0), b"a bar\r".to_vec())]);
    }

    #[test]
    fn shown_lines() {
        assert_eq!(shown(Some(3), "hello"), "[rank 3] hello\n");
        assert_eq!(shown(None, "hello"), "hello\n");
    }
}
