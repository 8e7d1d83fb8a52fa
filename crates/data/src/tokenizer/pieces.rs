//! Tokens one by one, without losing a byte: for showing what a row was turned into.

use std::fmt::Write as _;

use tokenizers::DecoderWrapper;

use super::Tokenizer;
use crate::Example;

/// One token of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Its id.
    pub id: u32,
    /// The bytes that it stands for; possibly a part of a character. Empty for an id that the tokenizer lacks.
    pub bytes: Vec<u8>,
    /// It has a label.
    pub is_supervised: bool,
}

impl Piece {
    /// The bytes as text for a terminal: control characters and bytes that are no whole character are escaped (`\n`,
    /// `\u{1b}`, `\xE2`), the rest stands as it is.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for chunk in self.bytes.utf8_chunks() {
            for c in chunk.valid().chars() {
                if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
            }
            for byte in chunk.invalid() {
                // Writing to a text cannot fail.
                let _ = write!(out, "\\x{byte:02X}");
            }
        }
        out
    }
}

impl Tokenizer {
    /// The tokens of an example, each on its own.
    pub fn pieces(&self, example: Example) -> Vec<Piece> {
        let alphabet = Alphabet::of(self.inner.get_decoder());
        let mut pieces: Vec<Piece> = example
            .ids
            .iter()
            .map(|&id| Piece { id, bytes: self.bytes_of(id, alphabet), is_supervised: false })
            .collect();
        for &[start, end] in example.supervised {
            pieces[start as usize..end as usize].iter_mut().for_each(|piece| piece.is_supervised = true);
        }
        pieces
    }

    fn bytes_of(&self, id: u32, alphabet: Alphabet) -> Vec<u8> {
        let Some(token) = self.inner.id_to_token(id) else { return Vec::new() };
        if self.added_tokens.binary_search(&token).is_ok() {
            return token.into_bytes();
        }
        if alphabet.is_byte_level {
            let bytes: Option<Vec<u8>> = token.chars().map(byte_of).collect();
            return bytes.unwrap_or_else(|| token.into_bytes());
        }
        if alphabet.has_byte_tokens
            && let Some(digits) = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'))
            && let Ok(byte) = u8::from_str_radix(digits, 16)
        {
            return vec![byte];
        }
        if alphabet.has_marked_spaces {
            token.replace('\u{2581}', " ").into_bytes()
        } else {
            token.into_bytes()
        }
    }
}

/// How a vocabulary spells bytes and spaces; its decoder knows.
#[derive(Debug, Clone, Copy, Default)]
struct Alphabet {
    /// Every byte is a printable character, as in GPT-2.
    is_byte_level: bool,
    /// Bytes may be tokens like `<0xE2>`.
    has_byte_tokens: bool,
    /// `▁` is a space, as in SentencePiece.
    has_marked_spaces: bool,
}

impl Alphabet {
    fn of(decoder: Option<&DecoderWrapper>) -> Self {
        let mut found = Self::default();
        found.add(decoder);
        found
    }

    fn add(&mut self, decoder: Option<&DecoderWrapper>) {
        match decoder {
            Some(DecoderWrapper::ByteLevel(_)) => self.is_byte_level = true,
            Some(DecoderWrapper::ByteFallback(_)) => self.has_byte_tokens = true,
            Some(DecoderWrapper::Metaspace(_) | DecoderWrapper::Replace(_)) => self.has_marked_spaces = true,
            Some(DecoderWrapper::Sequence(list)) => {
                list.get_decoders().iter().for_each(|decoder| self.add(Some(decoder)));
            }
            _ => {}
        }
    }
}

/// GPT-2's alphabet backwards: printable Latin-1 characters stand for themselves, the 68 other bytes for the
/// characters from U+0100 on, in the order of the bytes.
fn byte_of(c: char) -> Option<u8> {
    let stands_for_itself = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    match u32::from(c) {
        code @ 0..0x100 => Some(code as u8).filter(|&byte| stands_for_itself(byte)),
        code => (0..=u8::MAX).filter(|&byte| !stands_for_itself(byte)).nth(code as usize - 0x100),
    }
}

#[cfg(test)]
mod tests;
