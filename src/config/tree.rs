//! A parsed file in which every node knows where it stands.

use crate::config::values::Wrong;

/// A node of one file. Lines and columns are looked up only for problems, see
/// [`file::locate`](crate::config::file::locate).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct At {
    /// Index into the files of this load.
    pub file: usize,
    /// Number of the node in the order of the document, keys included.
    pub node: u32,
}

#[derive(Debug)]
pub(super) struct Node {
    pub at: At,
    pub value: Value,
}

#[derive(Debug)]
pub(super) enum Value {
    Null,
    Flag(bool),
    Integer(i128),
    Number(f64),
    Text(Text),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Debug)]
pub(super) struct Text {
    pub value: String,
    /// What stands in the file where `value` came from the environment.
    pub written: Option<String>,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub key: String,
    pub key_at: At,
    pub value: Node,
}

impl Node {
    /// The node for messages. What came from the environment may be secret, so
    /// only the name of the variable is shown.
    pub fn shown(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::Flag(value) => format!("`{value}`"),
            Value::Integer(value) => format!("`{value}`"),
            Value::Number(value) => format!("`{value}`"),
            Value::Text(text) => text.shown(),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a map".to_owned(),
        }
    }

    /// Whether the value stands in the file as it is: it may be repeated in messages.
    pub fn is_written(&self) -> bool {
        !matches!(&self.value, Value::Text(text) if text.written.is_some())
    }

    pub fn text(&self) -> Result<&Text, Wrong> {
        match &self.value {
            Value::Text(text) => Ok(text),
            Value::Flag(_) | Value::Integer(_) | Value::Number(_) => Err(Wrong::new(
                format!("expected text, found {}", self.shown()),
                "put it in quotes",
            )),
            _ => Err(Wrong::expected("text", self)),
        }
    }

    /// The value without quotes around it, where a word or a number may stand.
    pub fn word(&self) -> Option<String> {
        match &self.value {
            Value::Text(text) => Some(text.value.clone()),
            Value::Integer(value) => Some(value.to_string()),
            Value::Number(value) => Some(value.to_string()),
            _ => None,
        }
    }

    pub fn list(&self) -> Result<&[Node], Wrong> {
        match &self.value {
            Value::List(nodes) => Ok(nodes),
            _ => Err(Wrong::expected("a list", self)),
        }
    }

    pub fn map(&self) -> Result<&[Entry], Wrong> {
        match &self.value {
            Value::Map(entries) => Ok(entries),
            _ => Err(Wrong::expected("a map", self)),
        }
    }
}

impl Text {
    /// Longest value repeated in a message.
    const MAX_SHOWN_CHARS: usize = 60;

    pub fn shown(&self) -> String {
        if let Some(written) = &self.written {
            return format!("the value of `{written}`");
        }
        let mut shown: String = self
            .value
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(Self::MAX_SHOWN_CHARS)
            .collect();
        if shown.len() < self.value.len() {
            shown.push('…');
        }
        format!("`{shown}`")
    }

    /// As it stands in the file.
    pub fn written(&self) -> &str {
        self.written.as_deref().unwrap_or(&self.value)
    }
}
