//! JSV to the letter, and round trips over everything that can be written.

use chrono::DateTime;
use proptest::prelude::*;

use super::*;
use crate::surfaces::webhooks::format::Contract;

const ANY: Contract = Contract { name: "Any", namespace: "urn:any", is_alphabetical: false };

fn word(text: &str) -> Node {
    Node::Word(text.to_owned())
}

fn object(members: &[(&str, Node)]) -> Node {
    Node::Object(members.iter().map(|(name, node)| ((*name).to_owned(), node.clone())).collect())
}

#[test]
fn a_text_is_quoted_only_where_it_must_be() {
    for (text, expected) in [
        ("", "\"\""),
        ("String", "String"),
        ("Hello World!", "Hello World!"),
        ("c2VjcmU=", "c2VjcmU="),
        ("é 'x' \\ / ;", "é 'x' \\ / ;"),
        ("\t", "\t"),
        ("http://x", "\"http://x\""),
        ("a,b", "\"a,b\""),
        ("{a", "\"{a\""),
        ("a}", "\"a}\""),
        ("[a", "\"[a\""),
        ("a]", "\"a]\""),
        ("2\" x 1\"", "\"2\"\" x 1\"\"\""),
        ("a\nb", "\"a\nb\""),
        ("a\rb", "\"a\rb\""),
    ] {
        assert_eq!(write(&Value::text(text)), expected, "{text:?}");
    }
}

#[test]
fn everything_else_is_written_bare_and_nulls_not_at_all() {
    let at = |nanoseconds: i64| Value::Date(DateTime::from_timestamp_nanos(nanoseconds));
    for (value, expected) in [
        (Value::Bool(true), "True"),
        (Value::Bool(false), "False"),
        (Value::Number(-7), "-7"),
        (at(1_548_892_800_000_000_000), "2019-01-31"),
        (at(1_548_935_999_000_000_000), "2019-01-31T11:59:59Z"),
        (at(1_548_935_999_123_000_000), "2019-01-31T11:59:59.1230000Z"),
        (at(1_548_935_999_000_000_100), "2019-01-31T11:59:59.0000001Z"),
        (at(1_548_892_800_000_000_100), "2019-01-31T00:00:00.0000001Z"),
        (Value::List(&ANY, vec![]), "[]"),
        (Value::List(&ANY, vec![Value::Number(1), Value::text("a,b")]), "[1,\"a,b\"]"),
        (Value::object(&ANY, []), "{}"),
        (
            Value::object(&ANY, [("a", Value::Null), ("b", Value::text("")), ("c", Value::Bool(true))]),
            "{b:\"\",c:True}",
        ),
    ] {
        assert_eq!(write(&value), expected);
    }
}

#[test]
fn reading_is_patient() {
    let url = object(&[("url", word("http://x"))]);
    for (text, expected) in [
        ("{url:http://x}", url.clone()),
        ("{ url : http://x }", url.clone()),
        ("{\"url\":\"http://x\"}", url.clone()),
        ("\r\n{\r\n\turl: http://x\r\n}\r\n", url),
        ("{}", object(&[])),
        ("{ }", object(&[])),
        ("{a:}", object(&[("a", Node::Null)])),
        ("{a:,b:\"\"}", object(&[("a", Node::Null), ("b", word(""))])),
        ("{a:x]y[z:w}", object(&[("a", word("x]y[z:w"))])),
        ("{a:\" b \"}", object(&[("a", word(" b "))])),
        ("{a:2\" x}", object(&[("a", word("2\" x"))])),
        ("{a:\"2\"\" x\"}", object(&[("a", word("2\" x"))])),
        (
            "{a:[],b:[c, d],e:{f:g}}",
            object(&[
                ("a", Node::List(vec![])),
                ("b", Node::List(vec![word("c"), word("d")])),
                ("e", object(&[("f", word("g"))])),
            ]),
        ),
        ("[{a:b},c}]", Node::List(vec![object(&[("a", word("b"))]), word("c}")])),
        ("a,b", word("a,b")),
        ("", Node::Null),
    ] {
        assert_eq!(read(text), Ok(expected), "{text}");
    }
}

#[test]
fn what_is_no_jsv_is_refused_with_the_place() {
    let deep = "[".repeat(100_000);
    for (text, what) in [
        ("{", "a name has no value"),
        ("{a", "a name has no value"),
        ("{a}", "a name has no value"),
        ("{a:b", "an object does not end"),
        ("{a:b,", "a name has no value"),
        ("{a:b,}", "a name has no value"),
        ("{a:b}}", "something follows the value"),
        ("{a:\"b}", "a quoted text does not end"),
        ("{a:\"b\"c}", "something follows a quoted text"),
        ("[a", "a list does not end"),
        ("[[a]b]", "a list does not end"),
        ("{a:{b:c}d}", "an object does not end"),
        (deep.as_str(), "nested too deeply"),
    ] {
        let refused = read(text).unwrap_err();
        assert_eq!(refused.what, what, "{}", &text[..text.len().min(40)]);
        assert!(refused.at <= text.len());
    }
}

/// What reading gives for what was written: texts lose the white space at their ends unless they are quoted, and nulls are gone.
fn expected(value: &Value) -> Node {
    match value {
        Value::Null => Node::Null,
        Value::Bool(flag) => word(if *flag { "True" } else { "False" }),
        Value::Number(number) => word(&number.to_string()),
        Value::Text(text) => expected_text(text),
        Value::Date(moment) => word(&date(*moment)),
        Value::List(_, items) => Node::List(items.iter().map(expected).collect()),
        Value::Object(_, members) => {
            let there = members.iter().filter(|(_, value)| *value != Value::Null);
            Node::Object(
                there
                    .map(|(name, value)| match expected_text(name) {
                        Node::Word(name) => (name, expected(value)),
                        _ => (String::new(), expected(value)),
                    })
                    .collect(),
            )
        }
    }
}

fn expected_text(text: &str) -> Node {
    let mut out = String::new();
    append_text(&mut out, text);
    match out.trim_matches(is_space) {
        _ if out.starts_with('"') => word(text),
        "" => Node::Null,
        trimmed => word(trimmed),
    }
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Number),
        any::<String>().prop_map(Value::Text),
        "[\"a:,{}\\[\\] \r\n]{0,8}".prop_map(Value::Text),
        (0..4_102_444_800_i64, 0..10_000_000_u32)
            .prop_map(|(s, ticks)| Value::Date(DateTime::from_timestamp(s, ticks * 100).unwrap())),
    ];
    leaf.prop_recursive(4, 64, 6, |inner| {
        let name = prop_oneof!["[a-zA-Z]{1,8}", "[\"a:,{}\\[\\] \r\n]{0,6}"];
        let member = prop_oneof![4 => inner.clone(), 1 => Just(Value::Null)];
        prop_oneof![
            prop::collection::vec(inner, 0..6).prop_map(|items| {
                // A list of nothing but a text of white space reads as the empty list.
                Value::List(&ANY, items)
            }),
            prop::collection::vec((name, member), 0..6).prop_map(|members| Value::Object(&ANY, members)),
        ]
    })
}

proptest! {
    #[test]
    fn what_was_written_is_read_again(value in values()) {
        let written = write(&value);
        let read = read(&written).map_err(|error| TestCaseError::fail(format!("{error}: {written}")))?;
        let wanted = match &value {
            // Within nothing, nothing ends an unquoted text.
            Value::Text(_) => prop_assume_text(&value),
            _ => expected(&value),
        };
        prop_assert_eq!(lonely(read), lonely(wanted), "{}", written);
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in any::<String>()) {
        let _either = read(&text);
    }

    #[test]
    fn no_text_of_brackets_and_quotes_makes_the_reader_panic(text in "[\"a:,{}\\[\\] \n]{0,40}") {
        let _either = read(&text);
    }
}

fn prop_assume_text(value: &Value) -> Node {
    expected(value)
}

/// `[ ]` is the empty list and the list of one text of white space alike.
fn lonely(node: Node) -> Node {
    match node {
        Node::List(items) if items == [Node::Null] => Node::List(Vec::new()),
        Node::List(items) => Node::List(items.into_iter().map(lonely).collect()),
        Node::Object(members) => {
            Node::Object(members.into_iter().map(|(name, node)| (name, lonely(node))).collect())
        }
        other => other,
    }
}
