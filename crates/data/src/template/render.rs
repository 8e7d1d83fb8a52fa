//! From a row to its text, and to the part of the text that is trained on.

use std::collections::BTreeMap;
use std::ops::Range;

use minijinja::value::Serde;
use minijinja::{UndefinedBehavior, Value};

use super::environment::{self, Compiled, NAME, line_of, problem_of};
use super::{Jinja, TrainOn, tags};
use crate::error::Place;
use crate::prompt::strip;
use crate::rows::hint;
use crate::{Content, Error, Message, Result, Role, Row, Schema, Tokenizer};

/// A rendered row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text {
    /// All of it.
    pub text: String,
    /// Byte ranges to train on, ascending; `None` for all of it.
    pub spans: Option<Vec<Range<usize>>>,
}

/// Renders rows of one schema.
#[derive(Debug)]
pub(crate) struct Renderer<'a> {
    jinja: &'a Jinja,
    schema: &'a Schema,
    train_on: TrainOn,
    compiled: Compiled,
    /// The texts of the added tokens: what may close an answer.
    closing_tokens: &'a [String],
}

type Context = BTreeMap<String, Value>;

impl<'a> Renderer<'a> {
    pub fn new(
        jinja: &'a Jinja,
        schema: &'a Schema,
        train_on: TrainOn,
        tokenizer: &'a Tokenizer,
    ) -> Result<Self> {
        let mut compiled = environment::compile(jinja)?;
        for (name, token) in tokenizer.special_tokens() {
            compiled.environment.add_global(name.clone(), token.clone());
        }
        let closing_tokens = tokenizer.added_tokens();
        let renderer = Self { jinja, schema, train_on, compiled, closing_tokens };
        if !renderer.is_conversation() {
            // A misspelt field would otherwise print nothing in every row.
            renderer.strict()
        } else {
            Ok(renderer)
        }
    }

    fn strict(mut self) -> Result<Self> {
        self.compiled.environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
        // A tokenizer without such a token prints nothing, as it does in a chat template.
        for name in ["bos_token", "eos_token"] {
            if !self.compiled.environment.globals().any(|(known, _)| known == name) {
                self.compiled.environment.add_global(name, "");
            }
        }
        Ok(self)
    }

    /// Whether rows are rendered as conversations, which write their special tokens themselves.
    pub fn is_conversation(&self) -> bool {
        self.jinja.is_chat || *self.schema == Schema::Chat
    }

    /// The row's text. `place` names the row in errors.
    pub fn render(&self, row: &Row, place: &dyn Fn() -> Place) -> Result<Text> {
        let one = At { renderer: self, place };
        let text = match &row.content {
            Content::Chat(messages) => one.chat(messages, row),
            Content::Pair { query, response } if self.jinja.is_chat => {
                let turn = |role, content: &String| Message {
                    role,
                    content: content.clone(),
                    other: Default::default(),
                };
                one.chat(&[turn(Role::User, query), turn(Role::Assistant, response)], row)
            }
            Content::Pair { query, response } => one.pair(query, response, row),
            Content::Fields if self.jinja.is_chat => {
                return Err(refuse_fields("chat", self.schema, row, place()));
            }
            Content::Fields => one.plain(row),
        }?;
        if text.text.trim().is_empty() {
            return Err(Error::TemplateEmpty { path: self.jinja.path.clone(), place: place() });
        }
        Ok(text)
    }

    /// The end of an answer that starts at `start` and whose turn ends with the text: white space that follows a
    /// closing token is left out, since generation stops at the token.
    fn end_of_turn(&self, text: &str, start: usize) -> usize {
        let trimmed = text[start..].trim_end();
        let is_closed = self.closing_tokens.iter().any(|token| trimmed.ends_with(token.as_str()));
        if is_closed { start + trimmed.len() } else { text.len() }
    }
}

/// One row being rendered.
struct At<'r, 'a> {
    renderer: &'r Renderer<'a>,
    place: &'r dyn Fn() -> Place,
}

impl At<'_, '_> {
    fn run(&self, context: &Context) -> Result<String> {
        let failed = |error: minijinja::Error| Error::TemplateFailed {
            path: self.renderer.jinja.path.clone(),
            line: line_of(&error),
            place: (self.place)(),
            problem: problem_of(&error),
        };
        let template = self.renderer.compiled.environment.get_template(NAME).map_err(failed)?;
        template
            .render(Value::from_pairs(context.iter().map(|(k, v)| (k.as_str(), v.clone()))))
            .map_err(failed)
    }

    fn no_span(&self, problem: String) -> Error {
        Error::TemplateSpan { path: self.renderer.jinja.path.clone(), place: (self.place)(), problem }
    }

    /// Renders a text that may hold marks.
    fn marked(&self, context: &Context) -> Result<(String, Vec<Range<usize>>)> {
        let text = self.run(context)?;
        tags::cut_marks(&text)
            .ok_or_else(|| self.no_span("its `generation` blocks do not follow one another".into()))
    }

    fn chat(&self, messages: &[Message], row: &Row) -> Result<Text> {
        let mut context: Context = fields(row);
        for absent in ["tools", "documents"] {
            context.entry(absent.into()).or_insert(Value::from(()));
        }
        let messages: Vec<Value> = messages.iter().map(|message| Value::from(Serde(message))).collect();
        let mut first = |count: usize, is_prompt: bool| {
            context.insert("messages".into(), Value::from(messages[..count].to_vec()));
            context.insert("add_generation_prompt".into(), Value::from(is_prompt));
            self.marked(&context)
        };
        let (text, spans) = first(messages.len(), false)?;
        if self.renderer.train_on == TrainOn::All {
            return Ok(Text { text, spans: None });
        }
        if self.renderer.compiled.has_generation {
            return Ok(Text { text, spans: Some(spans) });
        }
        let mut spans = Vec::new();
        let answers = (0..messages.len()).filter(|&i| is_answer(row, i));
        for i in answers {
            let turn = i + 1;
            let (prompt, _) = first(i, true).map_err(|error| {
                self.no_span(format!("it cannot write what comes before message {turn}: {error}"))
            })?;
            let shorter;
            let until = if turn == messages.len() {
                &text
            } else {
                (shorter, _) = first(turn, false)?;
                &shorter
            };
            if !until.starts_with(&prompt) || !text.starts_with(until.as_str()) {
                let problem = format!("what it writes up to message {turn} changes with what follows");
                return Err(self.no_span(problem));
            }
            spans.push(prompt.len()..self.renderer.end_of_turn(until, prompt.len()));
        }
        Ok(Text { text, spans: Some(spans) })
    }

    fn pair(&self, query: &str, response: &str, row: &Row) -> Result<Text> {
        let mut context = fields(row);
        let schema = self.renderer.schema;
        for name in query_field(schema).into_iter().chain(["query"]) {
            context.insert(name.into(), Value::from(query));
        }
        // A field of the answer that is called `query` does not hide the question.
        let names = response_field(schema).filter(|name| *name != "query").into_iter().chain(["response"]);
        let names: Vec<&str> = names.collect();
        let (text, spans) = self.with_response(&mut context, &names, response)?;
        match self.needs_no_search(text, spans) {
            Ok(found) => Ok(found),
            Err(text) => self.search(&mut context, &names, response, text),
        }
    }

    /// A row of plain fields. The answer is looked for where the row has the field that holds it.
    fn plain(&self, row: &Row) -> Result<Text> {
        let mut context = fields(row);
        let schema = self.renderer.schema;
        let mut names = Vec::from_iter(response_field(schema));
        let own = [query_field(schema), response_field(schema)];
        let own = own.map(|name| name.and_then(|name| context.get(name)).cloned());
        let response = own[1].as_ref().and_then(Value::as_str).map(str::to_owned);
        for (known, value) in ["query", "response"].into_iter().zip(own) {
            // As with questions and answers, except that a field which has that name goes first.
            if let Some(value) = value
                && !context.contains_key(known)
            {
                context.insert(known.into(), value);
                names.extend((known == "response").then_some(known));
            }
        }
        let (text, spans) = self.marked(&context)?;
        match (self.needs_no_search(text, spans), response) {
            (Ok(found), _) => Ok(found),
            (Err(text), Some(response)) => self.search(&mut context, &names, &response, text),
            (Err(_), None) => Err(self.no_span(format!(
                "it has no `generation` block, and the row no text `{}`; it has {}",
                response_field(schema).unwrap_or("response"),
                hint::fields(&names_of(row))
            ))),
        }
    }

    /// The row, where what is trained on is all of its text or marked by the template; else the text again.
    fn needs_no_search(&self, text: String, spans: Vec<Range<usize>>) -> std::result::Result<Text, String> {
        match self.renderer.train_on {
            TrainOn::All => Ok(Text { text, spans: None }),
            _ if self.renderer.compiled.has_generation => Ok(Text { text, spans: Some(spans) }),
            TrainOn::Responses => Err(text),
        }
    }

    fn with_response(
        &self,
        context: &mut Context,
        names: &[&str],
        response: &str,
    ) -> Result<(String, Vec<Range<usize>>)> {
        for name in names {
            context.insert((*name).into(), Value::from(response));
        }
        self.marked(context)
    }

    /// Finds the answer in `text`, by rendering it once more with marks around the answer.
    fn search(&self, context: &mut Context, names: &[&str], response: &str, text: String) -> Result<Text> {
        // The marks go inside the white space around the answer, so that a template may trim it.
        let core = strip(response);
        let (before, after) = response.split_once(core).unwrap_or(("", ""));
        let marked = format!("{before}{}{core}{}{after}", tags::BEGIN, tags::END);
        let (same, mut spans) = self.with_response(context, names, &marked)?;
        if same != text {
            return Err(self.no_span("it changes the answer, so that its place cannot be found".into()));
        }
        match spans.last_mut() {
            None => Err(self.no_span("it does not print the answer".into())),
            Some(last) => {
                last.end = self.renderer.end_of_turn(&text, last.start);
                Ok(Text { text, spans: Some(spans) })
            }
        }
    }
}

/// Whether message `i` is trained on.
fn is_answer(row: &Row, i: usize) -> bool {
    match &row.content {
        Content::Chat(messages) => messages[i].role == Role::Assistant,
        Content::Pair { .. } => i == 1,
        Content::Fields => false,
    }
}

fn query_field(schema: &Schema) -> Option<&str> {
    match schema {
        Schema::Pairs { query_field, .. } | Schema::Fields { query_field, .. } => Some(query_field),
        Schema::Chat => None,
    }
}

fn response_field(schema: &Schema) -> Option<&str> {
    match schema {
        Schema::Pairs { response_field, .. } | Schema::Fields { response_field, .. } => Some(response_field),
        Schema::Chat => None,
    }
}

fn names_of(row: &Row) -> Vec<&str> {
    row.fields().map(|(name, _)| name.as_str()).collect()
}

/// The error of a template that writes a question and its answer, of a row of plain fields.
pub(crate) fn refuse_fields(template: &'static str, schema: &Schema, row: &Row, place: Place) -> Error {
    let query = query_field(schema).unwrap_or("query");
    let response = response_field(schema).unwrap_or("response");
    let or_messages = if template == "chat" { ", or `messages`" } else { "" };
    let names = names_of(row);
    Error::TemplateFields {
        place,
        template,
        needs: format!("the fields {}{or_messages}", hint::list(&[query, response])).into(),
        fields: hint::fields(&names).into(),
        hint: hint::guess(&names, false).into(),
    }
}

fn fields(row: &Row) -> Context {
    row.fields().map(|(name, value)| (name.clone(), Value::from(Serde(value)))).collect()
}
