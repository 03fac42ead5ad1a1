//! YAML text to a tree. The only file that names the YAML crate.
//!
//! The crate tells a line and column only for an error, so [`locate`] walks the
//! document a second time, keeping nothing, and fails at the wanted node. Problems
//! are few; the good path is free of positions, and every kind of node has one.

use std::fmt;

use serde::Deserialize;
use serde::de;
use serde::de::DeserializeSeed;
use serde::de::MapAccess;
use serde::de::SeqAccess;
use serde::de::Visitor;

use crate::config::tree::At;
use crate::config::tree::Entry;
use crate::config::tree::Node;
use crate::config::tree::Text;
use crate::config::tree::Value;

/// The schema needs 7 levels; more is a mistake or an attack on the stack.
const MAX_DEPTH: usize = 32;
/// More than the largest file holds without an alias: each value takes two bytes of it.
const MAX_NODES: usize = 2_100_000;
/// Aliases may make a small text this large, and a larger one as much larger for each of its bytes:
/// the work of a load follows its text. 150 clusters that share a list of 1,000 backends stay below.
const MAX_NODES_OF_SMALL_TEXT: usize = 2_000;
const MAX_NODES_PER_BYTE: usize = 8;

const TOO_MANY_ALIASES: &str = "aliases (`*name`) repeat too much";

/// Text that is not YAML, or more than we are willing to hold.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub message: String,
    /// 1-based; 0 when unknown.
    pub line: usize,
    /// 1-based; 0 when unknown.
    pub column: usize,
}

/// Parses one file. `file` is its index in this load.
pub(super) fn parse(text: &str, file: usize) -> Result<Node, SyntaxError> {
    if let Some(error) = too_deep(text) {
        return Err(error);
    }
    let mut walk = Walk::new(file, text, None);
    let seed = NodeSeed {
        walk: &mut walk,
        depth: 0,
    };
    seed.deserialize(serde_yaml::Deserializer::from_str(text))
        .map_err(|error| match walk.failure {
            None if error.to_string().contains("more than one document") => after_document(text),
            failure => syntax_error(&error, failure),
        })
}

/// Line and column (1-based) of a node of a text that was parsed before.
pub(super) fn locate(text: &str, node: u32) -> Option<(usize, usize)> {
    let mut walk = Walk::new(0, text, Some(node));
    let seed = NodeSeed {
        walk: &mut walk,
        depth: 0,
    };
    let found = seed.deserialize(serde_yaml::Deserializer::from_str(text));
    let location = found.err()?.location()?;
    Some((location.line(), location.column()))
}

/// Refuses nesting before the YAML crate sees it: its work grows with the square of the depth
/// of brackets. Brackets in quotes and comments count too, which no real file comes near.
fn too_deep(text: &str) -> Option<SyntaxError> {
    const MAX_OPEN: i64 = 1000;
    let mut open = 0_i64;
    for (index, line) in text.lines().enumerate() {
        for (column, byte) in line.bytes().enumerate() {
            match byte {
                b'[' | b'{' => open += 1,
                b']' | b'}' => open = (open - 1).max(0),
                _ => {}
            }
            if open > MAX_OPEN {
                return Some(SyntaxError {
                    message: format!("nested more than {MAX_DEPTH} levels deep"),
                    line: index + 1,
                    column: column + 1,
                });
            }
        }
    }
    None
}

fn syntax_error(error: &serde_yaml::Error, failure: Option<String>) -> SyntaxError {
    let (line, column) = error
        .location()
        .map_or((0, 0), |location| (location.line(), location.column()));
    let message = failure.unwrap_or_else(|| {
        let text = error.to_string();
        let place = format!(" at line {line} column {column}");
        let text = text.replacen(&place, "", 1);
        if text.contains("repetition limit") {
            TOO_MANY_ALIASES.to_owned()
        } else {
            format!("not valid YAML: {text}")
        }
    });
    SyntaxError {
        message,
        line,
        column,
    }
}

/// What is wrong with text that goes on after its document: the YAML crate does not tell where.
fn after_document(text: &str) -> SyntaxError {
    if let Some(line) = second_document(text) {
        return SyntaxError {
            message: "more than one document; remove the `---` between them".to_owned(),
            line,
            column: 1,
        };
    }
    // What follows is no document either, and the crate says why not.
    let rest = serde_yaml::Deserializer::from_str(text).nth(1);
    match rest.map(de::IgnoredAny::deserialize) {
        Some(Err(error)) => syntax_error(&error, None),
        Some(Ok(_)) | None => SyntaxError {
            message: "more than one document".to_owned(),
            line: 0,
            column: 0,
        },
    }
}

/// The line of the `---` that begins the second document. At the start of a line nothing else may
/// look like it (YAML 1.2, chapter 9.1).
fn second_document(text: &str) -> Option<usize> {
    let mut began = false;
    for (index, line) in text.lines().enumerate() {
        let rest = line.strip_prefix("---");
        let marks = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t']));
        if marks && began {
            return Some(index + 1);
        }
        // Comments and directives come before the first document.
        let waits = line.trim().is_empty() || line.trim_start().starts_with('#');
        began |= marks || !(waits || line.starts_with('%'));
    }
    None
}

/// Numbers the nodes of a document, and fails at the one that is looked for.
struct Walk {
    file: usize,
    next: u32,
    max_nodes: usize,
    /// `Some`: nothing is kept on the way there.
    wanted: Option<u32>,
    /// Why we, and not the YAML crate, stopped.
    failure: Option<String>,
}

impl Walk {
    fn new(file: usize, text: &str, wanted: Option<u32>) -> Self {
        let of_text = MAX_NODES_OF_SMALL_TEXT + text.len() * MAX_NODES_PER_BYTE;
        Self {
            file,
            next: 0,
            max_nodes: of_text.min(MAX_NODES),
            wanted,
            failure: None,
        }
    }

    fn enter<E: de::Error>(&mut self) -> Result<At, E> {
        let node = self.next;
        if self.wanted == Some(node) {
            return Err(E::custom("here"));
        }
        if node as usize >= self.max_nodes {
            return Err(self.fail(TOO_MANY_ALIASES.to_owned()));
        }
        self.next += 1;
        Ok(At {
            file: self.file,
            node,
        })
    }

    fn is_search(&self) -> bool {
        self.wanted.is_some()
    }

    fn copy_of(&self, text: &str) -> String {
        if self.is_search() {
            String::new()
        } else {
            text.to_owned()
        }
    }

    fn fail<E: de::Error>(&mut self, message: String) -> E {
        let error = E::custom(&message);
        self.failure = Some(message);
        error
    }
}

struct NodeSeed<'w> {
    walk: &'w mut Walk,
    depth: usize,
}

impl NodeSeed<'_> {
    fn scalar<E: de::Error>(self, value: Value) -> Result<Node, E> {
        let at = self.walk.enter()?;
        Ok(Node { at, value })
    }

    fn container<E: de::Error>(&mut self) -> Result<At, E> {
        let at = self.walk.enter()?;
        if self.depth >= MAX_DEPTH {
            let message = format!("nested more than {MAX_DEPTH} levels deep");
            return Err(self.walk.fail(message));
        }
        Ok(at)
    }
}

impl<'de> DeserializeSeed<'de> for NodeSeed<'_> {
    type Value = Node;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for NodeSeed<'_> {
    type Value = Node;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Node, E> {
        self.scalar(Value::Flag(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Node, E> {
        self.scalar(Value::Integer(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Node, E> {
        self.scalar(Value::Integer(value.into()))
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<Node, E> {
        self.scalar(Value::Integer(value))
    }

    fn visit_u128<E: de::Error>(self, value: u128) -> Result<Node, E> {
        self.scalar(Value::Number(value as f64))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Node, E> {
        self.scalar(Value::Number(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Node, E> {
        let value = self.walk.copy_of(value);
        let written = None;
        self.scalar(Value::Text(Text { value, written }))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Node, E> {
        self.scalar(Value::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Node, E> {
        self.scalar(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut sequence: A) -> Result<Node, A::Error> {
        let at = self.container()?;
        let mut nodes = Vec::new();
        while let Some(node) = sequence.next_element_seed(NodeSeed {
            walk: &mut *self.walk,
            depth: self.depth + 1,
        })? {
            if !self.walk.is_search() {
                nodes.push(node);
            }
        }
        Ok(Node {
            at,
            value: Value::List(nodes),
        })
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Node, A::Error> {
        let at = self.container()?;
        let mut entries = Vec::new();
        while let Some((key, key_at)) = map.next_key_seed(KeySeed(&mut *self.walk))? {
            let value = map.next_value_seed(NodeSeed {
                walk: &mut *self.walk,
                depth: self.depth + 1,
            })?;
            if !self.walk.is_search() {
                entries.push(Entry { key, key_at, value });
            }
        }
        Ok(Node {
            at,
            value: Value::Map(entries),
        })
    }

    fn visit_enum<A: de::EnumAccess<'de>>(self, _tagged: A) -> Result<Node, A::Error> {
        Err(self
            .walk
            .fail("YAML tags (`!name`) have no meaning here".to_owned()))
    }
}

/// Keys are text whatever they look like: a cluster may be called `8080`.
struct KeySeed<'w>(&'w mut Walk);

impl<'de> DeserializeSeed<'de> for KeySeed<'_> {
    type Value = (String, At);

    fn deserialize<D: de::Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<(String, At), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for KeySeed<'_> {
    type Value = (String, At);

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a key")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<(String, At), E> {
        Ok((self.0.copy_of(key), self.0.enter()?))
    }
}
