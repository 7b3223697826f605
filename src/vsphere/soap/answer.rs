//! A text that a server sent → what it answered, or a fault.

use super::Moref;
use super::fault::Fault;
use super::xml::{self, BadXml, Node};
use std::collections::BTreeMap;

/// How an answer is not one of the VIM API.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BadAnswer {
    /// Not XML.
    #[error(transparent)]
    Xml(#[from] BadXml),
    /// XML of something else.
    #[error("it is not a SOAP envelope, but <{0}>")]
    NotSoap(String),
    /// Another call's answer.
    #[error("it answers with <{found}> to {method}")]
    Other {
        /// What was called.
        method: &'static str,
        /// What came.
        found: String,
    },
    /// Something that must be there is not.
    #[error("<{0}> is missing or is not what it should be")]
    Missing(&'static str),
}

/// What came back.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    /// The answer: its `returnval`s.
    Done(Vec<Node>),
    /// A refusal.
    Fault(Fault),
}

/// Reads the answer to a call of `method`.
///
/// # Errors
/// See [`BadAnswer`].
pub fn parse(method: &'static str, text: &str) -> Result<Answer, BadAnswer> {
    let root = xml::parse(text)?;
    if root.name != "Envelope" || !root.soap {
        return Err(BadAnswer::NotSoap(root.name));
    }
    let body = root
        .children
        .into_iter()
        .find(|node| node.soap && node.name == "Body");
    let body = body.ok_or(BadAnswer::Missing("Body"))?;
    let answer = body.children.into_iter().next();
    let answer = answer.ok_or(BadAnswer::Missing("Body"))?;
    if answer.soap && answer.name == "Fault" {
        return Ok(Answer::Fault(Fault::of_envelope(&answer)));
    }
    if answer.name.strip_suffix("Response") != Some(method) {
        let found = answer.name;
        return Err(BadAnswer::Other { method, found });
    }
    let values = answer.children.into_iter();
    Ok(Answer::Done(
        values.filter(|node| node.name == "returnval").collect(),
    ))
}

/// A reference.
///
/// # Errors
/// It says not to what, or is empty.
pub fn reference(node: &Node) -> Result<Moref, BadAnswer> {
    let value = node.text.trim();
    match &node.refers_to {
        Some(kind) if !value.is_empty() => Ok(Moref::new(kind, value)),
        _ => Err(BadAnswer::Missing("type")),
    }
}

/// A number that stands in a child.
///
/// # Errors
/// It is not there, or is no number of that size.
pub fn number<T: std::str::FromStr>(node: &Node, name: &'static str) -> Result<T, BadAnswer> {
    let text = node.text_of(name).ok_or(BadAnswer::Missing(name))?;
    text.parse().map_err(|_| BadAnswer::Missing(name))
}

/// Whether a boolean is true; XML has two words for that.
#[must_use]
pub fn truth(text: &str) -> bool {
    matches!(text, "true" | "1")
}

/// Properties of one object, by their paths.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Properties(BTreeMap<String, Node>);

impl Properties {
    /// A property, if the object has it.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&Node> {
        self.0.get(path)
    }

    /// Its text, if the object has it.
    #[must_use]
    pub fn text(&self, path: &str) -> Option<&str> {
        self.get(path).map(|node| node.text.trim())
    }

    /// Whether it is there and true.
    #[must_use]
    pub fn is_true(&self, path: &str) -> bool {
        self.text(path).is_some_and(truth)
    }
}

/// A page of properties of objects.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Page {
    /// The objects, and what they have of what was asked for.
    pub objects: Vec<(Moref, Properties)>,
    /// Asks for the next page.
    pub token: Option<String>,
    /// What could not be told of some object, and why.
    pub missing: Option<Fault>,
}

/// Reads a `RetrieveResult`; none at all is an answer too.
///
/// # Errors
/// See [`BadAnswer`].
pub fn page(values: &[Node]) -> Result<Page, BadAnswer> {
    let mut page = Page::default();
    let Some(result) = values.first() else {
        return Ok(page);
    };
    page.token = result.text_of("token").map(str::to_owned);
    for object in result.all("objects") {
        let on = reference(object.child("obj").ok_or(BadAnswer::Missing("obj"))?)?;
        let mut properties = Properties::default();
        for set in object.all("propSet") {
            let name = set.text_of("name").ok_or(BadAnswer::Missing("name"))?;
            let value = set.child("val").ok_or(BadAnswer::Missing("val"))?;
            properties.0.insert(name.to_owned(), value.clone());
        }
        let mut missing = object.all("missingSet");
        if let Some(fault) = missing.find_map(|node| node.child("fault")) {
            page.missing = Some(Fault::of_task(fault));
        }
        page.objects.push((on, properties));
    }
    Ok(page)
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
