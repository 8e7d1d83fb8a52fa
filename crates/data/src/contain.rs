//! Foreign decoders that panic on damaged input, turned into errors.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    static IS_CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `decode`; a panic in it becomes the message it carried.
///
/// The process's panic hook, which may end the process, is not called for such a panic: the first use wraps it
/// in one that passes on every panic but those in here. What `decode` had borrowed may be half changed after a panic;
/// callers give it up.
pub(crate) fn contain_panics<T>(decode: impl FnOnce() -> T) -> Result<T, String> {
    static WRAP: Once = Once::new();
    WRAP.call_once(|| {
        let outer = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !IS_CONTAINED.get() {
                outer(info);
            }
        }));
    });
    let before = IS_CONTAINED.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(decode));
    IS_CONTAINED.set(before);
    outcome.map_err(|panic| message(&*panic))
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.and_then(|text| text.lines().next()).unwrap_or("the decoder gave up").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_its_message() {
        assert_eq!(contain_panics(|| 3), Ok(3));
        assert_eq!(contain_panics(|| -> u8 { panic!("bad {}", 7) }), Err("bad 7".to_owned()));
        assert_eq!(contain_panics(|| -> u8 { panic!("plain") }), Err("plain".to_owned()));
        assert!(!IS_CONTAINED.get());
    }
}
