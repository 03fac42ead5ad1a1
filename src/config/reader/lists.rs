//! Keys with several values: lists, and maps with free keys.

use serde_json::Value as Json;

use crate::config::keys::Kind;
use crate::config::reader::Reader;
use crate::config::reader::strange::report_double;
use crate::config::source::Sources;
use crate::config::tree::Entry;
use crate::config::tree::Node;
use crate::config::tree::Value;
use crate::config::values;
use crate::config::values::Wrong;

impl<'n> Reader<'n> {
    /// A list of texts that are not empty, served as they were written. Absent = empty.
    pub fn texts(&mut self, sources: &mut Sources, name: &'static str) -> Vec<String> {
        let Some(nodes) = self.list(sources, name) else {
            return Vec::new();
        };
        let mut texts = Vec::new();
        let mut written = Vec::new();
        for node in nodes {
            match node.text() {
                Ok(text) if text.value.is_empty() => {
                    sources.error(node.at, Wrong::new("this text is empty", "remove it"));
                }
                Ok(text) => {
                    texts.push(text.value.clone());
                    written.push(text.written());
                }
                Err(wrong) => sources.error(node.at, wrong),
            }
        }
        self.effective.insert(name.to_owned(), written.into());
        texts
    }

    /// A list of values of one kind. Absent = empty.
    pub fn values<T: ToString>(
        &mut self,
        sources: &mut Sources,
        name: &'static str,
        parse: impl Fn(&Node) -> Result<T, Wrong>,
    ) -> Vec<T> {
        let mut found = Vec::new();
        for node in self.list(sources, name).unwrap_or_default() {
            match parse(node) {
                Ok(value) => found.push(value),
                Err(wrong) => sources.error(node.at, wrong),
            }
        }
        if self.entry(name).is_some() {
            let shown: Vec<String> = found.iter().map(ToString::to_string).collect();
            self.effective.insert(name.to_owned(), shown.into());
        }
        found
    }

    /// Names of protocols; TLS gives each one byte for its length.
    pub fn alpn(&mut self, sources: &mut Sources) -> Vec<String> {
        let parse = |node: &Node| {
            let text = node.text()?;
            let printable = text.value.bytes().all(|byte| byte.is_ascii_graphic());
            if printable && (1..=255).contains(&text.value.len()) {
                return Ok(text.value.clone());
            }
            let message = format!("{} is not the name of a protocol", node.shown());
            Err(Wrong::new(message, "as in `h2` or `postgresql`"))
        };
        self.values(sources, "alpn", parse)
    }

    /// A list of numbers, each once. Absent = empty.
    pub fn counts(&mut self, sources: &mut Sources, name: &'static str) -> Vec<u64> {
        let Kind::List(Kind::Count(min, max)) = self.key(name).kind else {
            unreachable!("the table says that {name} is a list of counts")
        };
        let mut found: Vec<u64> = Vec::new();
        for node in self.list(sources, name).unwrap_or_default() {
            match values::count(node, &(*min..=*max)) {
                Ok(value) if found.contains(&value) => {
                    let wrong = Wrong::new(format!("{value} stands twice"), "remove one");
                    sources.error(node.at, wrong);
                }
                Ok(value) => found.push(value),
                Err(wrong) => sources.error(node.at, wrong),
            }
        }
        if self.entry(name).is_some() {
            self.effective.insert(name.to_owned(), found.clone().into());
        }
        found
    }

    /// The nodes of a list, or of what stands for a list of one.
    pub fn one_or_many(&mut self, sources: &mut Sources, name: &'static str) -> &'n [Node] {
        match self.node(name) {
            Some(node) if matches!(node.value, Value::List(_)) => {
                self.list(sources, name).unwrap_or_default()
            }
            Some(node) => std::slice::from_ref(node),
            None => &[],
        }
    }

    /// The entries of a map with free keys; an empty map is reported. Absent = empty.
    pub fn free_map(&mut self, sources: &mut Sources, name: &'static str) -> &'n [Entry] {
        let Some(node) = self.node(name) else {
            return &[];
        };
        match node.map() {
            Ok([]) => {
                let wrong = Wrong::new(format!("`{name}` is empty"), "remove it or fill it");
                sources.error(node.at, wrong);
                &[]
            }
            Ok(entries) => {
                report_double(sources, entries, "key");
                entries
            }
            Err(mut wrong) => {
                wrong.help = Some("write names and values, as in `{x-tenant: acme}`".to_owned());
                sources.error(node.at, wrong);
                &[]
            }
        }
    }

    /// A section that is on where it is written, even empty.
    pub fn switched_section(
        &self,
        sources: &mut Sources,
        name: &'static str,
    ) -> Option<Reader<'n>> {
        let node = self.node(name)?;
        if matches!(node.value, Value::Flag(_) | Value::Null | Value::Text(_)) {
            let help = format!("write `{name}: {{}}` for the defaults, or remove it");
            let wrong = Wrong::expected("a map", node);
            sources.error(node.at, Wrong::new(wrong.message, help));
            return None;
        }
        self.optional_section(sources, name)
    }

    /// Puts a value that was written and read elsewhere into the effective configuration.
    pub fn shown(&mut self, name: &'static str, value: impl Into<Json>) {
        self.effective.insert(name.to_owned(), value.into());
    }
}
