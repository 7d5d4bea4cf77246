//! The JSV reader: it never panics, and what it has read is read again from what the writer makes of it.

#![no_main]

use herald::surfaces::webhooks::format::{Contract, Node, Value, jsv};
use libfuzzer_sys::fuzz_target;

const ANY: Contract = Contract { name: "Any", namespace: "", is_alphabetical: false };

fuzz_target!(|text: &str| {
    let Ok(node) = jsv::read(text) else { return };
    let node = settled(node);
    let written = jsv::write(&value(&node));
    let again = jsv::read(&written).unwrap_or_else(|error| panic!("{error}: {written:?}"));
    assert_eq!(settled(again), node, "{written:?}");
});

/// Without what writing does not keep: null members, and white space at the ends of a text that needs no quotes.
fn settled(node: Node) -> Node {
    match node {
        Node::Word(text) => word(&text),
        Node::List(items) => {
            let items: Vec<Node> = items.into_iter().map(settled).collect();
            // A list of one null is written as the empty list.
            Node::List(if items == [Node::Null] { Vec::new() } else { items })
        }
        Node::Object(members) => Node::Object(
            members
                .into_iter()
                .map(|(name, node)| (trimmed(&name).to_owned(), settled(node)))
                .filter(|(_, node)| *node != Node::Null)
                .collect(),
        ),
        other => other,
    }
}

fn word(text: &str) -> Node {
    match trimmed(text) {
        "" if !text.is_empty() => Node::Null,
        text => Node::Word(text.to_owned()),
    }
}

fn trimmed(text: &str) -> &str {
    if text.contains(['"', ':', ',', '{', '}', '[', ']', '\r', '\n']) {
        return text;
    }
    text.trim_matches([' ', '\t'])
}

fn value(node: &Node) -> Value {
    match node {
        Node::Null => Value::Null,
        Node::Word(text) | Node::Text(text) | Node::Bare(text) => Value::Text(text.clone()),
        Node::List(items) => Value::List(&ANY, items.iter().map(value).collect()),
        Node::Object(members) | Node::Elements(members) => {
            Value::Object(&ANY, members.iter().map(|(name, node)| (name.clone(), value(node))).collect())
        }
    }
}
