//! Errors as a user would see them.

/// Writes an error out in full, since a message that quotes the input is made of it as much as a value is. False,
/// so that a target can end with it.
pub(crate) fn refused(error: &dyn miette::Diagnostic) -> bool {
    let mut text = error.to_string();
    assert!(!text.is_empty(), "an error says what is wrong");
    assert!(error.code().is_some(), "an error has a code: {text}");
    text.extend(error.help().map(|help| help.to_string()));
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    false
}
