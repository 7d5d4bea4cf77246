//! XML as .NET's DataContractSerializer writes and reads it: elements by the names of contracts and members, in the contracts' namespaces;
//! members in alphabetical order unless the contract says otherwise; null members left out.
//!
//! A namespace is declared by the member that first needs it, under the prefix `d<depth>p1`. In what is read only local names count.

use super::node::Node;
use super::value::{Contract, Value, iso};

const INSTANCE: &str = "http://www.w3.org/2001/XMLSchema-instance";
/// Elements within each other at most.
const DEPTH_MAX: usize = 64;
/// Attributes and namespaces of a document that is read, at most. The parser compares each with every other.
const ATTRIBUTES_MAX: usize = 2_000;
const NAMESPACES_MAX: usize = 200;

pub fn write(value: &Value) -> String {
    let mut out = "<?xml version=\"1.0\" encoding=\"utf-8\"?>".to_owned();
    let (name, namespace) = match value {
        Value::List(contract, _) => (format!("ArrayOf{}", contract.name), contract.namespace),
        Value::Object(contract, _) => (contract.name.to_owned(), contract.namespace),
        _ => ("anyType".to_owned(), ""),
    };
    out.push_str(&format!("<{name} xmlns:i=\"{INSTANCE}\" xmlns=\"{namespace}\""));
    content(&mut out, value, &name, &Scope { depth: 1, prefix: String::new(), namespace });
    out
}

/// Where an element stands: how deep, and the namespace of what is in it with the prefix for it.
struct Scope {
    depth: usize,
    /// With its colon; empty for the root's own namespace.
    prefix: String,
    namespace: &'static str,
}

/// What follows an element's name and attributes, its end included.
fn content(out: &mut String, value: &Value, element: &str, scope: &Scope) {
    let mut inside = String::new();
    match value {
        Value::Null => {}
        Value::Bool(flag) => inside.push_str(if *flag { "true" } else { "false" }),
        Value::Number(number) => inside.push_str(&number.to_string()),
        Value::Text(text) => append_text(&mut inside, text),
        Value::Date(moment) => inside.push_str(&trimmed(iso(*moment))),
        Value::List(contract, items) => {
            for item in items {
                member(&mut inside, contract.name, item, scope);
            }
        }
        Value::Object(contract, members) => {
            let mut members: Vec<_> = members.iter().filter(|(_, value)| *value != Value::Null).collect();
            if contract.is_alphabetical {
                members.sort_by_key(|member| capitalised(&member.0));
            }
            for (name, value) in members {
                member(&mut inside, &capitalised(name), value, scope);
            }
        }
    }
    if inside.is_empty() {
        out.push_str(" />");
    } else {
        out.push_str(&format!(">{inside}</{element}>"));
    }
}

fn member(out: &mut String, name: &str, value: &Value, scope: &Scope) {
    let element = format!("{}{name}", scope.prefix);
    let depth = scope.depth + 1;
    out.push_str(&format!("<{element}"));
    let inner = match value {
        Value::List(Contract { namespace, .. }, _) | Value::Object(Contract { namespace, .. }, _)
            if *namespace != scope.namespace =>
        {
            out.push_str(&format!(" xmlns:d{depth}p1=\"{namespace}\""));
            Scope { depth, prefix: format!("d{depth}p1:"), namespace }
        }
        _ => Scope { depth, prefix: scope.prefix.clone(), namespace: scope.namespace },
    };
    content(out, value, &element, &inner);
}

fn capitalised(name: &str) -> String {
    let mut rest = name.chars();
    rest.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(rest).collect()
}

/// Zeros at the end of a fraction are not written.
fn trimmed(iso: String) -> String {
    match iso.strip_suffix('Z').filter(|rest| rest.contains('.')) {
        Some(rest) => format!("{}Z", rest.trim_end_matches('0')),
        None => iso,
    }
}

/// What XML has no way to write becomes the replacement character.
fn append_text(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '\r' => out.push_str("&#xD;"),
            '\t' | '\n' => out.push(c),
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
}

/// Reads a document whose root is the request. What is wrong with it is said without repeating it.
pub fn read(text: &str) -> Result<Node, String> {
    let document = document(text)?;
    node(document.root_element(), 0)
}

/// A document without a DOCTYPE: nothing in it can be expanded or fetched.
pub fn document(text: &str) -> Result<roxmltree::Document<'_>, String> {
    if attributes(text) > ATTRIBUTES_MAX || text.matches("xmlns").count() > NAMESPACES_MAX {
        return Err(format!(
            "must have at most {ATTRIBUTES_MAX} attributes, {NAMESPACES_MAX} of them namespaces"
        ));
    }
    roxmltree::Document::parse(text).map_err(|error| match error {
        roxmltree::Error::DtdDetected => "must not have a DOCTYPE".to_owned(),
        other => format!("is not well-formed XML near line {}", other.pos().row),
    })
}

/// How many attributes a text can hold at most: what looks like one counts, wherever it stands.
fn attributes(text: &str) -> usize {
    text.split('=').skip(1).filter(|rest| rest.trim_start().starts_with(['"', '\''])).count()
}

fn node(element: roxmltree::Node<'_, '_>, depth: usize) -> Result<Node, String> {
    if depth > DEPTH_MAX {
        return Err("is nested too deeply".to_owned());
    }
    if matches!(element.attribute((INSTANCE, "nil")), Some("true" | "1")) {
        return Ok(Node::Null);
    }
    let text: String =
        element.children().filter(|child| child.is_text()).filter_map(|child| child.text()).collect();
    let children: Vec<_> = element.children().filter(|child| child.is_element()).collect();
    if children.is_empty() && depth > 0 {
        return Ok(Node::Word(text));
    }
    if !text.trim().is_empty() {
        return Err("has text between its elements".to_owned());
    }
    let members =
        children.into_iter().map(|child| Ok((child.tag_name().name().to_owned(), node(child, depth + 1)?)));
    Ok(Node::Elements(members.collect::<Result<_, String>>()?))
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    const OUTER: Contract = Contract { name: "Outer", namespace: "urn:outer", is_alphabetical: true };
    const INNER: Contract = Contract { name: "Inner", namespace: "urn:inner", is_alphabetical: false };

    #[test]
    fn members_stand_in_their_contracts_order_and_namespace() {
        let at = |nanoseconds: i64| Value::Date(DateTime::from_timestamp_nanos(nanoseconds));
        let leaf = || Value::object(&INNER, [("z", Value::text("a<b&c\r\0")), ("a", Value::Null)]);
        let outer = Value::object(
            &OUTER,
            [
                ("items", Value::List(&INNER, vec![leaf()])),
                ("none", Value::List(&INNER, vec![])),
                ("flag", Value::Bool(true)),
                ("at", at(1_548_935_999_120_000_000)),
                ("day", at(1_548_892_800_000_000_000)),
                ("gone", Value::Null),
            ],
        );
        let expected = "<At>2019-01-31T11:59:59.12Z</At><Day>2019-01-31T00:00:00Z</Day><Flag>true</Flag>\
             <Items xmlns:dNp1=\"urn:inner\"><dNp1:Inner><dNp1:Z>a&lt;b&amp;c&#xD;\u{fffd}</dNp1:Z></dNp1:Inner></Items>\
             <None xmlns:dNp1=\"urn:inner\" />";
        let head = "<?xml version=\"1.0\" encoding=\"utf-8\"?>";
        let root = format!("xmlns:i=\"{INSTANCE}\" xmlns=\"urn:outer\"");
        assert_eq!(write(&outer), format!("{head}<Outer {root}>{}</Outer>", expected.replace("dN", "d2")));
        assert_eq!(
            write(&Value::List(&OUTER, vec![outer])),
            format!(
                "{head}<ArrayOfOuter {root}><Outer>{}</Outer></ArrayOfOuter>",
                expected.replace("dN", "d3")
            )
        );
        assert_eq!(write(&Value::List(&OUTER, vec![])), format!("{head}<ArrayOfOuter {root} />"));
    }

    #[test]
    fn what_is_read_are_local_names() {
        let word = |text: &str| Node::Word(text.to_owned());
        let text = "<?xml version=\"1.0\"?>\n<Delete xmlns=\"urn:x\" xmlns:i=\"http://www.w3.org/2001/XMLSchema-instance\">\n \
             <Id>1</Id><a:Secret xmlns:a=\"urn:y\">x &amp; y</a:Secret><Name i:nil=\"true\"/><Url/>\n \
             <Events><string>a</string><string>b</string></Events></Delete>";
        let items = vec![("string".to_owned(), word("a")), ("string".to_owned(), word("b"))];
        let members = [
            ("Id", word("1")),
            ("Secret", word("x & y")),
            ("Name", Node::Null),
            ("Url", word("")),
            ("Events", Node::Elements(items)),
        ];
        let members = members.map(|(name, node)| (name.to_owned(), node)).to_vec();
        assert_eq!(read(text), Ok(Node::Elements(members)));
        assert_eq!(read("<Empty/>"), Ok(Node::Elements(vec![])));
    }

    #[test]
    fn a_doctype_and_what_is_not_well_formed_are_refused() {
        let deep = format!("{}{}", "<a>".repeat(20_000), "</a>".repeat(20_000));
        for (text, complaint) in [
            ("<!DOCTYPE a><a/>", "DOCTYPE"),
            ("<!DOCTYPE a [<!ENTITY b SYSTEM \"file:///c\">]><a>&b;</a>", "DOCTYPE"),
            ("<!DOCTYPE a [<!ENTITY b \"bb\"><!ENTITY c \"&b;&b;\">]><a>&c;</a>", "DOCTYPE"),
            ("<a>&b;</a>", "well-formed"),
            ("<a>", "well-formed"),
            ("", "well-formed"),
            ("text", "well-formed"),
            ("<a>text<b/></a>", "between"),
            ("<a>text</a>", "between"),
            (deep.as_str(), "deeply"),
        ] {
            let refused = read(text).unwrap_err();
            assert!(refused.contains(complaint), "{}: {refused}", &text[..text.len().min(60)]);
        }
    }
}
