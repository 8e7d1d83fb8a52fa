//! The template engine, set up as transformers sets up Jinja2.

use chrono::DateTime;
use chrono::format::{Item, StrftimeItems};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, Error as JinjaError, ErrorKind, UndefinedBehavior, Value};

use super::{Jinja, python, tags};
use crate::{Error, Result};

/// The engine's name of the one template in it.
pub(super) const NAME: &str = "template";

/// A guard against templates that never end or that double a text on and on: instructions, and every 64 bytes that a
/// template makes (so 128 MiB at most). Two thousand messages of two kilobytes are within it.
const FUEL: u64 = 1 << 21;

/// A template that parsed.
#[derive(Debug)]
pub(super) struct Compiled {
    pub environment: Environment<'static>,
    /// It marks itself what is trained on.
    pub has_generation: bool,
}

/// Parses a template.
pub(super) fn compile(jinja: &Jinja) -> Result<Compiled> {
    let invalid = |line, problem| Error::TemplateInvalid { path: jinja.path.clone(), line, problem };
    let rewritten = tags::rewrite(&jinja.source).map_err(|(line, problem)| invalid(line, problem.into()))?;
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.map_err(|error| invalid(1, problem_of(&error)))?);
    environment.set_fuel(Some(FUEL));
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_formatter(|out, _, value| match value.as_str() {
        Some(text) => out.write_str(text).map_err(JinjaError::from),
        None if value.is_undefined() => Ok(()),
        None => out.write_str(&python::text(value)?).map_err(JinjaError::from),
    });
    environment.add_filter("tojson", |value: &Value, kwargs: Kwargs| python::tojson(value, kwargs));
    environment.add_filter("string", |value: &Value| python::text(value));
    environment.add_function("raise_exception", |message: &str| -> std::result::Result<Value, JinjaError> {
        Err(JinjaError::new(ErrorKind::InvalidOperation, message.to_owned()))
    });
    let clock = jinja.clock;
    environment.add_function("strftime_now", move |format: &str| strftime(clock, format));
    environment.add_global(tags::BEGIN_NAME, tags::BEGIN);
    environment.add_global(tags::END_NAME, tags::END);
    let added = environment.add_template_owned(NAME, rewritten.source);
    added.map_err(|error| invalid(line_of(&error), problem_of(&error)))?;
    Ok(Compiled { environment, has_generation: rewritten.has_generation })
}

/// The line of the template that an error is about.
pub(super) fn line_of(error: &JinjaError) -> u64 {
    error.line().unwrap_or(1) as u64
}

/// What the engine said, without the place.
pub(super) fn problem_of(error: &JinjaError) -> String {
    match error.detail() {
        // What `raise_exception` says is a sentence of its own.
        Some(detail) if error.kind() == ErrorKind::InvalidOperation => detail.to_owned(),
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

fn strftime(clock: i64, format: &str) -> std::result::Result<String, JinjaError> {
    let wrong = |problem: &str| {
        JinjaError::new(ErrorKind::InvalidOperation, format!("strftime_now({format:?}): {problem}"))
    };
    let items: Vec<Item> = StrftimeItems::new(format).collect();
    if items.contains(&Item::Error) {
        return Err(wrong("unknown format"));
    }
    let time = DateTime::from_timestamp(clock, 0).ok_or_else(|| wrong("the time is out of range"))?;
    Ok(time.format_with_items(items.iter()).to_string())
}
