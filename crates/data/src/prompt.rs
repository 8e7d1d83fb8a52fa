//! The official text of one row.

/// The official optional system prompt, 153 characters. It is part of the data format: identical tokens need it
/// to the letter.
pub const SYSTEM_PROMPT: &str = "Below is an instruction that describes a task. Write a response that \
                                 appropriately completes the request and conclude with: This is the answer: \
                                 ANSWER.\n\n";

/// The text of a question and its answer: `Question: …`, a line break, `Answer: …`, both stripped of white space at
/// the ends. The stripped answer is its end.
pub fn text_of(query: &str, response: &str) -> String {
    format!("Question: {}\nAnswer: {}", strip(query), strip(response))
}

/// Python's `str.strip()`: Unicode's white space, and the four separators U+001C to U+001F, which Rust's `trim`
/// leaves.
pub(crate) fn strip(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c))
}

#[cfg(test)]
mod tests;
