//! What was read: a tree in which only the shape is certain. Which types its leaves have is for whoever asks.

use serde_json::value::RawValue;

use super::jsv;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// As good as absent.
    Null,
    /// A text of a format that has no other leaves: it may stand for a flag or a list as well.
    Word(String),
    /// A text that says that it is one.
    Text(String),
    /// A number or a flag of JSON, as it was written.
    Bare(String),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
    /// What XML has for lists and objects alike.
    Elements(Vec<(String, Node)>),
}

impl Node {
    /// From a JSON value. Errors: what it holds cannot be read (a lone surrogate, for one).
    pub fn of_json(raw: &RawValue) -> Result<Self, &'static str> {
        const UNREADABLE: &str = "must be a value of Unicode characters";
        let text = raw.get();
        match text.as_bytes().first() {
            Some(b'"') => serde_json::from_str(text).map(Self::Text).map_err(|_| UNREADABLE),
            Some(b'[') => {
                let items: Vec<&RawValue> = serde_json::from_str(text).map_err(|_| UNREADABLE)?;
                items.into_iter().map(Self::of_json).collect::<Result<_, _>>().map(Self::List)
            }
            Some(b'{') => {
                let members = crate::surfaces::kit::fields::members(raw).map_err(|_| UNREADABLE)?;
                let members = members.into_iter().map(|(name, raw)| Ok((name, Self::of_json(raw)?)));
                members.collect::<Result<_, _>>().map(Self::Object)
            }
            Some(b'n') => Ok(Self::Null),
            _ => Ok(Self::Bare(text.to_owned())),
        }
    }

    pub fn text(self) -> Result<String, &'static str> {
        match self {
            Self::Word(text) | Self::Text(text) if text.contains('\0') => {
                Err("must not contain the character U+0000")
            }
            Self::Word(text) | Self::Text(text) => Ok(text),
            _ => Err("must be a text"),
        }
    }

    /// `true`, `t`, `y`, `on`, `1` or `false`, `f`, `n`, `0`; words in whichever case.
    pub fn flag(&self) -> Result<bool, &'static str> {
        let (Self::Word(text) | Self::Text(text) | Self::Bare(text)) = self else {
            return Err("must be true or false");
        };
        match text.to_ascii_lowercase().as_str() {
            "true" | "t" | "y" | "on" | "1" => Ok(true),
            "false" | "f" | "n" | "0" => Ok(false),
            _ => Err("must be true or false"),
        }
    }

    /// The entries of a list. A word is a list written as JSV, its brackets optional.
    pub fn items(self) -> Result<Vec<Self>, &'static str> {
        match self {
            Self::List(items) => Ok(items),
            Self::Elements(items) => Ok(items.into_iter().map(|(_, item)| item).collect()),
            Self::Word(text) if text.trim().is_empty() => Ok(Vec::new()),
            Self::Word(text) => {
                let bracketed = text.trim_start().starts_with('[');
                match jsv::read(&if bracketed { text } else { format!("[{text}]") }) {
                    Ok(Self::List(items)) => Ok(items),
                    _ => Err("must be a list"),
                }
            }
            _ => Err("must be a list"),
        }
    }

    /// The members of an object. A word is one written as JSV.
    pub fn members(self) -> Result<Vec<(String, Self)>, &'static str> {
        match self {
            Self::Object(members) | Self::Elements(members) => Ok(members),
            Self::Word(text) => match jsv::read(&text) {
                Ok(Self::Object(members)) => Ok(members),
                _ => Err("must be an object"),
            },
            _ => Err("must be an object"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(text: &str) -> Node {
        Node::Word(text.to_owned())
    }

    fn of_json(text: &str) -> Result<Node, &'static str> {
        Node::of_json(&RawValue::from_string(text.to_owned()).unwrap())
    }

    #[test]
    fn flags_come_in_every_published_spelling() {
        for text in ["true", "True", "TRUE", "1", "t", "T", "y", "Y", "on", "On"] {
            assert_eq!(word(text).flag(), Ok(true), "{text}");
        }
        for text in ["false", "False", "0", "f", "n", "N"] {
            assert_eq!(word(text).flag(), Ok(false), "{text}");
        }
        for json in ["true", "1", "\"true\""] {
            assert_eq!(of_json(json).unwrap().flag(), Ok(true), "{json}");
        }
        for bad in [word(""), word("maybe"), word("10"), Node::List(vec![]), Node::Bare("1.0".to_owned())] {
            assert!(bad.flag().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_word_may_stand_for_a_list_but_a_json_text_is_a_text() {
        for text in ["a,b", "[a,b]", " [ a , b ] "] {
            assert_eq!(word(text).items(), Ok(vec![word("a"), word("b")]), "{text}");
        }
        assert_eq!(word("").items(), Ok(vec![]));
        assert!(word("[a").items().is_err());
        for json in ["\"a,b\"", "1", "{}"] {
            assert!(of_json(json).unwrap().items().is_err(), "{json}");
        }
        assert_eq!(word("{a:b}").members(), Ok(vec![("a".to_owned(), word("b"))]));
        assert!(of_json("\"{a:b}\"").unwrap().members().is_err());
    }

    #[test]
    fn json_keeps_its_types_and_what_is_unreadable_is_refused() {
        assert_eq!(of_json("\"a\"").unwrap().text(), Ok("a".to_owned()));
        assert_eq!(
            of_json("[null,{\"a\":1e400}]"),
            Ok(Node::List(vec![
                Node::Null,
                Node::Object(vec![("a".to_owned(), Node::Bare("1e400".to_owned()))]),
            ]))
        );
        for json in ["1", "true", "[]", "{}", "\"\\u0000\""] {
            assert!(of_json(json).unwrap().text().is_err(), "{json}");
        }
        for json in ["\"\\ud800\"", "[\"\\ud800\"]", "{\"a\":\"\\udc00\"}", "{\"\\ud800\":1}"] {
            assert!(of_json(json).is_err(), "{json}");
        }
    }
}
