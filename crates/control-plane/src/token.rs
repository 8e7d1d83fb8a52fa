//! The secret that opens a run.

use std::fmt;

use subtle::ConstantTimeEq;

const BYTES: usize = 32;

/// 256 random bits, written as 64 hexadecimal digits. It is never shown, and compared in constant time.
#[derive(Clone)]
pub struct Token([u8; BYTES]);

impl Token {
    /// A new one, from the system's random numbers.
    ///
    /// # Errors
    /// The system has none to give.
    pub fn random() -> Result<Self, std::io::Error> {
        let mut bytes = [0; BYTES];
        getrandom::fill(&mut bytes).map_err(std::io::Error::from)?;
        Ok(Self(bytes))
    }

    /// The token that [`Token::reveal`] wrote; `None` for anything but 64 hexadecimal digits.
    pub fn parse(hex: &str) -> Option<Self> {
        let digits = hex.as_bytes();
        if digits.len() != 2 * BYTES {
            return None;
        }
        let mut bytes = [0; BYTES];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let high = char::from(pair[0]).to_digit(16)?;
            let low = char::from(pair[1]).to_digit(16)?;
            *byte = u8::try_from(high * 16 + low).ok()?;
        }
        Some(Self(bytes))
    }

    /// The secret itself, as 64 hexadecimal digits: for the environment of ranks and for the file of the endpoint.
    pub fn reveal(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Token {}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_as_digits_and_is_never_shown() {
        let token = Token::random().expect("random numbers");
        let hex = token.reveal();
        assert_eq!(hex.len(), 64);
        assert_eq!(Token::parse(&hex), Some(token.clone()));
        assert_ne!(Token::random().expect("random numbers"), token);
        assert!(!format!("{token:?}{token}").contains(&hex[..8]));
    }

    #[test]
    fn only_64_digits_are_a_token() {
        for wrong in ["", "12", &"g".repeat(64), &"a".repeat(63), &"ä".repeat(32)] {
            assert_eq!(Token::parse(wrong), None, "{wrong}");
        }
    }
}
