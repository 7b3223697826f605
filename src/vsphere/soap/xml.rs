//! XML text to a small tree.
//!
//! What makes XML hard is settled here, once: prefixes are resolved, so that the `type` of a
//! reference is told from the `type` of `xsi`; entities, which the reader hands out one by one, are
//! joined with the text around them; a document type, which no SOAP message has, is refused; depth
//! and number of elements are bounded.

use quick_xml::NsReader;
use quick_xml::XmlVersion;
use quick_xml::escape::resolve_xml_entity;
use quick_xml::events::{BytesRef, BytesStart, Event};
use quick_xml::name::{Namespace, NamespaceResolver, ResolveResult};
use std::fmt::Display;

/// Elements inside each other. Snapshot trees are the deepest: 32 levels, two elements each.
const DEPTH_MAX: usize = 200;

/// Elements of a document. A device list has 100 for each device.
const ELEMENTS_MAX: usize = 1_000_000;

/// Declarations of prefixes that may be in force at the same time.
const PREFIXES_MAX: usize = 256;

/// The namespace whose `type` says what an element is.
const XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";

/// The namespace of envelope, body and fault.
pub const SOAP: &str = "http://schemas.xmlsoap.org/soap/envelope/";

/// How a text is not the XML of a SOAP message.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BadXml {
    /// Not well-formed.
    #[error("not XML: {0}")]
    Syntax(String),
    /// `<!DOCTYPE`.
    #[error("it has a document type, which SOAP forbids")]
    DocType,
    /// An entity that only a document type could have defined.
    #[error("unknown entity &{0};")]
    Entity(String),
    /// More than `DEPTH_MAX`.
    #[error("elements are nested more than {DEPTH_MAX} deep")]
    TooDeep,
    /// More than `ELEMENTS_MAX`.
    #[error("it has more than {ELEMENTS_MAX} elements")]
    TooMany,
    /// No element, or text where there can be none.
    #[error("it ends before it is complete")]
    Incomplete,
}

/// An element.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Node {
    /// Its name, without a prefix.
    pub name: String,
    /// Whether the name is one of SOAP's.
    pub soap: bool,
    /// `xsi:type`, without a prefix.
    pub kind: Option<String>,
    /// `type`, of no namespace: what a reference refers to.
    pub refers_to: Option<String>,
    /// Its text, entities resolved.
    pub text: String,
    /// The elements in it.
    pub children: Vec<Node>,
}

impl Node {
    /// The first child of that name.
    #[must_use]
    pub fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The children of that name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The node that a path of names leads to, the first of each.
    #[must_use]
    pub fn at(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |node, name| node.child(name))
    }

    /// The text of a child.
    #[must_use]
    pub fn text_of(&self, name: &str) -> Option<&str> {
        self.child(name).map(|child| child.text.trim())
    }

    /// Whether `xsi:type` is `kind`.
    #[must_use]
    pub fn is_a(&self, kind: &str) -> bool {
        self.kind.as_deref() == Some(kind)
    }
}

/// Reads a document.
///
/// # Errors
/// See [`BadXml`].
pub fn parse(text: &str) -> Result<Node, BadXml> {
    let mut reader = NsReader::from_str(text);
    reader
        .resolver_mut()
        .set_max_namespace_bindings(PREFIXES_MAX);
    let mut open: Vec<Node> = Vec::new();
    let mut root = None;
    let mut elements = 0usize;
    loop {
        let event = reader.read_event().map_err(syntax)?;
        match event {
            Event::Start(start) | Event::Empty(start) if root.is_some() && open.is_empty() => {
                return Err(syntax(format!("a second root {:?}", start.name().0)));
            }
            Event::Start(start) => {
                elements = counted(elements, open.len())?;
                open.push(node(&start, reader.resolver())?);
            }
            Event::Empty(start) => {
                elements = counted(elements, open.len())?;
                close(node(&start, reader.resolver())?, &mut open, &mut root);
            }
            Event::End(_) => {
                let closed = open.pop().ok_or(BadXml::Incomplete)?;
                close(closed, &mut open, &mut root);
            }
            Event::Text(piece) => add(&mut open, &piece.xml_content(XmlVersion::Explicit1_0)),
            Event::CData(piece) => add(&mut open, &piece.xml_content(XmlVersion::Explicit1_0)),
            Event::GeneralRef(entity) => add(&mut open, &resolved(&entity)?),
            Event::DocType(_) => return Err(BadXml::DocType),
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
            Event::Eof => break,
        }
    }
    match open.is_empty() {
        true => root.ok_or(BadXml::Incomplete),
        false => Err(BadXml::Incomplete),
    }
}

fn counted(elements: usize, depth: usize) -> Result<usize, BadXml> {
    if depth >= DEPTH_MAX {
        return Err(BadXml::TooDeep);
    }
    match elements {
        ELEMENTS_MAX.. => Err(BadXml::TooMany),
        fewer => Ok(fewer.saturating_add(1)),
    }
}

/// An element as its tag has it.
fn node(start: &BytesStart<'_>, resolver: &NamespaceResolver) -> Result<Node, BadXml> {
    let (space, name) = resolver.resolve_element(start.name());
    let mut node = Node {
        name: name.into_inner().to_owned(),
        soap: is(&space, SOAP),
        ..Node::default()
    };
    // Whether one is named twice is not looked for: that takes the square of their number.
    for attribute in start.attributes().with_checks(false) {
        let attribute = attribute.map_err(syntax)?;
        let (space, name) = resolver.resolve_attribute(attribute.key);
        if name.into_inner() != "type" {
            continue;
        }
        let value = attribute.normalized_value(XmlVersion::Explicit1_0);
        let value = value.map_err(syntax)?;
        match space {
            ResolveResult::Unbound => node.refers_to = Some(value.into_owned()),
            space if is(&space, XSI) => {
                let local = value.rsplit(':').next().unwrap_or_default();
                node.kind = Some(local.to_owned());
            }
            _ => {}
        }
    }
    Ok(node)
}

fn is(space: &ResolveResult<'_>, name: &str) -> bool {
    matches!(space, ResolveResult::Bound(Namespace(bound)) if *bound == name)
}

fn close(node: Node, open: &mut [Node], root: &mut Option<Node>) {
    match open.last_mut() {
        Some(parent) => parent.children.push(node),
        None => *root = Some(node),
    }
}

/// Text outside of the root is white space, or the reader would have complained.
fn add(open: &mut [Node], text: &str) {
    if let Some(node) = open.last_mut() {
        node.text.push_str(text);
    }
}

fn resolved(entity: &BytesRef<'_>) -> Result<String, BadXml> {
    if let Some(character) = entity.resolve_char_ref().map_err(syntax)? {
        return Ok(character.to_string());
    }
    let name = entity.xml_content(XmlVersion::Explicit1_0);
    match resolve_xml_entity(&name) {
        Some(text) => Ok(text.to_owned()),
        None => Err(BadXml::Entity(name.into_owned())),
    }
}

fn syntax(error: impl Display) -> BadXml {
    BadXml::Syntax(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::{BadXml, parse};

    #[test]
    fn entities_are_joined_with_the_text_around_them() {
        let node = parse("<a>R&amp;D &lt;&#49;&#x32;&gt; &quot;x&quot;</a>").unwrap();
        assert_eq!(node.text, "R&D <12> \"x\"");
        let node = parse("<a><![CDATA[x<y]]>&amp;z</a>").unwrap();
        assert_eq!(node.text, "x<y&z");
    }

    #[test]
    fn the_two_kinds_of_type_are_told_apart_under_any_prefix_and_in_any_order() {
        let space = "http://www.w3.org/2001/XMLSchema-instance";
        for tag in [
            format!("<v type=\"Folder\" xmlns:q=\"{space}\" q:type=\"x:Ref\"/>"),
            format!("<v q:type=\"Ref\" type=\"Folder\" xmlns:q=\"{space}\"></v>"),
        ] {
            let node = parse(&tag).unwrap();
            assert_eq!(node.kind.as_deref(), Some("Ref"), "{tag}");
            assert_eq!(node.refers_to.as_deref(), Some("Folder"), "{tag}");
        }
        let other = parse("<v xmlns:xsi=\"urn:else\" xsi:type=\"Ref\"/>").unwrap();
        assert_eq!((other.kind, other.refers_to), (None, None));
    }

    #[test]
    fn a_document_type_is_refused_and_its_entities_are_unknown() {
        let bomb = "<!DOCTYPE a [<!ENTITY b \"c\">]><a>&b;</a>";
        assert_eq!(parse(bomb), Err(BadXml::DocType));
        assert_eq!(parse("<a>&b;</a>"), Err(BadXml::Entity("b".to_owned())));
    }

    #[test]
    fn depth_and_number_of_elements_are_bounded() {
        assert_eq!(parse(&"<a>".repeat(100_000)), Err(BadXml::TooDeep));
        let many = format!("<a>{}</a>", "<b/>".repeat(1_000_001));
        assert_eq!(parse(&many), Err(BadXml::TooMany));
        let declared: String = (0..1000).map(|n| format!(" xmlns:p{n}=\"u\"")).collect();
        assert!(matches!(
            parse(&format!("<a{declared}/>")),
            Err(BadXml::Syntax(_))
        ));
    }

    #[test]
    fn what_is_cut_off_or_goes_on_is_an_error() {
        for text in [
            "",
            "  ",
            "<a>",
            "<a><b></a>",
            "<a/><b/>",
            "<a",
            "</a>",
            "<a>&amp</a>",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
