//! The kernels: right to the last bit, and how fast.

use serde_json::Value;

use super::{Context, Found, NotPassed, Numbers};

/// Runs `bench kernels`, which ends with another code than 0 where a kernel's bits are wrong.
pub fn check(context: &Context, numbers: &mut Numbers) -> Found {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<String>>();
    if !context.children.run("kernels help", 1, &words(&["bench", "kernels", "--help"]))?.status.success() {
        return Err(NotPassed::Skipped("not in this build: it has no `bench kernels`".to_owned()));
    }
    let args = words(&["bench", "kernels", "--device", &context.device.to_string(), "--json"]);
    let ended = context.children.run("kernels", 1, &args)?;
    let found: Option<Value> = serde_json::from_str(&ended.stdout).ok();
    if let Some(found) = &found {
        numbers.insert("kernels".to_owned(), found.clone());
    }
    match (ended.status.success(), found) {
        (true, Some(_)) => Ok("every kernel's bits are those expected".to_owned()),
        (true, None) => Err("`bench kernels --json` printed no JSON".to_owned().into()),
        (false, _) => Err(ended.failure().into()),
    }
}
