//! Reads the keys of one section, collecting problems instead of stopping.
//!
//! Every getter returns a value even where it found a problem: the load has
//! failed by then, and going on finds the next problem.

mod lists;
mod strange;

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Map;
use serde_json::Value as Json;

use crate::config::keys;
use crate::config::keys::Key;
use crate::config::keys::Kind;
use crate::config::keys::Section;
use crate::config::keys::Unwritten;
use crate::config::reader::strange::join;
use crate::config::reader::strange::later_word;
use crate::config::reader::strange::report_double;
use crate::config::reader::strange::unknown_key;
use crate::config::sizes;
use crate::config::source::Sources;
use crate::config::tree::At;
use crate::config::tree::Entry;
use crate::config::tree::Node;
use crate::config::tree::Text;
use crate::config::tree::Value;
use crate::config::values;
use crate::config::values::Wrong;

/// One section of the file, with what was read from it so far.
pub(super) struct Reader<'n> {
    section: &'static Section,
    entries: &'n [Entry],
    /// Where the section stands, for what is missing.
    pub at: At,
    /// JSON pointer of the section in the effective configuration.
    pointer: String,
    effective: Map<String, Json>,
    defaults: Vec<String>,
}

impl<'n> Reader<'n> {
    /// Opens a section: reports what is not a map, unknown keys and double keys.
    pub fn open(
        sources: &mut Sources,
        section: &'static Section,
        node: &'n Node,
        pointer: String,
    ) -> Self {
        let entries = node.map().unwrap_or_else(|mut wrong| {
            let names = section.keys.iter().map(|key| key.name);
            wrong.help = Some(format!("{} has keys: {}", section.what, join(names)));
            sources.spoil(node.at, wrong);
            &[]
        });
        report_double(sources, entries, "key");
        for entry in entries {
            if section.key(&entry.key).is_none() {
                sources.error(entry.key_at, unknown_key(section, &entry.key));
            }
        }
        Self::over(section, entries, node.at, pointer)
    }

    fn over(section: &'static Section, entries: &'n [Entry], at: At, pointer: String) -> Self {
        Self {
            section,
            entries,
            at,
            pointer,
            effective: Map::new(),
            defaults: Vec::new(),
        }
    }

    /// A section inside this one; all defaults where it is not written.
    pub fn section(&self, sources: &mut Sources, name: &'static str) -> Reader<'n> {
        self.optional_section(sources, name).unwrap_or_else(|| {
            let section = self.section_of(name);
            Reader::over(section, &[], self.at, format!("{}/{name}", self.pointer))
        })
    }

    pub fn optional_section(
        &self,
        sources: &mut Sources,
        name: &'static str,
    ) -> Option<Reader<'n>> {
        let section = self.section_of(name);
        let node = self.node(name)?;
        let pointer = format!("{}/{name}", self.pointer);
        Some(Reader::open(sources, section, node, pointer))
    }

    fn section_of(&self, name: &str) -> &'static Section {
        match self.key(name).kind {
            Kind::Section(section) => section,
            Kind::List(Kind::Section(section)) | Kind::Either(_, Kind::Section(section)) => section,
            _ => unreachable!("the table says that {name} is a section"),
        }
    }

    /// The sections of a list. Empty lists are reported.
    pub fn list_of_sections(
        &mut self,
        sources: &mut Sources,
        name: &'static str,
    ) -> Option<Vec<Reader<'n>>> {
        let section = self.section_of(name);
        let nodes = self.list(sources, name)?;
        let pointer = format!("{}/{name}", self.pointer);
        let open =
            |(index, node)| Reader::open(sources, section, node, format!("{pointer}/{index}"));
        Some(nodes.iter().enumerate().map(open).collect())
    }

    /// Where something inside this section is in the effective configuration.
    pub fn pointer_to(&self, inner: &str) -> String {
        format!("{}/{inner}", self.pointer)
    }

    /// The nodes of a list; an empty list or another kind is reported.
    pub fn list(&mut self, sources: &mut Sources, name: &'static str) -> Option<&'n [Node]> {
        let node = self.node(name)?;
        match node.list() {
            Ok([]) => {
                let wrong = Wrong::new(format!("`{name}` is empty"), "remove it or fill it");
                sources.error(node.at, wrong);
                None
            }
            Ok(nodes) => Some(nodes),
            Err(wrong) => {
                sources.error(node.at, wrong);
                None
            }
        }
    }

    /// Puts what a section inside this one has read into the effective configuration.
    pub fn attach(&mut self, name: &str, inner: Reader<'_>) {
        let (value, defaults) = inner.finish();
        self.attach_value(name, value, defaults);
    }

    pub fn attach_value(&mut self, name: &str, value: Json, mut defaults: Vec<String>) {
        self.effective.insert(name.to_owned(), value);
        self.defaults.append(&mut defaults);
    }

    /// The effective section, and pointers to the values that were not written.
    pub fn finish(self) -> (Json, Vec<String>) {
        (Json::Object(self.effective), self.defaults)
    }

    pub fn node(&self, name: &str) -> Option<&'n Node> {
        let entry = self.entries.iter().find(|entry| entry.key == name)?;
        Some(&entry.value)
    }

    pub fn entry(&self, name: &str) -> Option<&'n Entry> {
        self.entries.iter().find(|entry| entry.key == name)
    }

    /// Where a key's value stands, or its section where it is not written.
    pub fn place(&self, name: &str) -> At {
        self.node(name).map_or(self.at, |node| node.at)
    }

    fn key(&self, name: &str) -> &'static Key {
        self.section
            .key(name)
            .unwrap_or_else(|| unreachable!("{name} is in the table"))
    }

    /// Reports a required key that is not there, unless a misspelt one is reported in its place.
    pub fn require(&self, sources: &mut Sources, name: &'static str) {
        let names = || self.section.keys.iter().map(|key| key.name);
        let misspelt = |entry: &Entry| {
            self.section.key(&entry.key).is_none()
                && values::nearest(&entry.key, names()) == Some(name)
        };
        if self.entry(name).is_some() || self.entries.iter().any(misspelt) {
            return;
        }
        let key = self.key(name);
        let help = match key.kind {
            Kind::Count(min, max) if min == max => format!("write `{name}: {min}`"),
            _ => key.meaning.to_owned(),
        };
        let message = format!("{} needs the key `{name}`", self.section.what);
        sources.error(self.at, Wrong::new(message, help));
    }

    /// Records a value that was worked out from others.
    pub fn derived(&mut self, name: &str, value: impl Into<Json>) {
        self.effective.insert(name.to_owned(), value.into());
        self.defaults.push(format!("{}/{name}", self.pointer));
    }

    /// Reads one key: the written value, else the table's default, else `None`. A required key that
    /// is missing and a value that is wrong are reported, and are `None` too.
    pub fn read<T>(
        &mut self,
        sources: &mut Sources,
        name: &'static str,
        parse: impl Fn(&Node) -> Result<T, Wrong>,
        show: impl Fn(&T) -> Json,
    ) -> Option<T> {
        let key = self.key(name);
        let Some(node) = self.node(name) else {
            let value = match key.default {
                Unwritten::Is(text) => parse(&default_node(text, self.at)).ok()?,
                Unwritten::Required => {
                    self.require(sources, name);
                    return None;
                }
                Unwritten::Absent | Unwritten::From(_) => return None,
            };
            self.derived(name, show(&value));
            return Some(value);
        };
        match parse(node) {
            Ok(value) => {
                self.effective.insert(name.to_owned(), show(&value));
                Some(value)
            }
            Err(wrong) => {
                sources.error(node.at, later_word(name, node).unwrap_or(wrong));
                None
            }
        }
    }

    pub fn duration(&mut self, sources: &mut Sources, name: &'static str) -> Duration {
        self.optional_duration(sources, name).unwrap_or_default()
    }

    pub fn optional_duration(
        &mut self,
        sources: &mut Sources,
        name: &'static str,
    ) -> Option<Duration> {
        let Kind::Duration(min, max) = self.key(name).kind else {
            unreachable!("the table says that {name} is a duration")
        };
        let range = Duration::from_millis(min)..=Duration::from_millis(max);
        let show = |value: &Duration| values::show_duration(*value).into();
        self.read(sources, name, |node| values::duration(node, &range), show)
    }

    pub fn count(&mut self, sources: &mut Sources, name: &'static str) -> Option<u64> {
        let Kind::Count(min, max) = self.key(name).kind else {
            unreachable!("the table says that {name} is a count")
        };
        let parse = |node: &Node| values::count(node, &(min..=max));
        self.read(sources, name, parse, |value| (*value).into())
    }

    pub fn choice(&mut self, sources: &mut Sources, name: &'static str) -> &'static str {
        let Kind::Choice(words) = self.key(name).kind else {
            unreachable!("the table says that {name} is a choice")
        };
        let parse = |node: &Node| values::choice(node, words);
        self.read(sources, name, parse, |value| (*value).into())
            .unwrap_or_default()
    }

    pub fn ratio(&mut self, sources: &mut Sources, name: &'static str) -> Option<f64> {
        let Kind::Ratio(min, max) = self.key(name).kind else {
            unreachable!("the table says that {name} is a ratio")
        };
        let parse = |node: &Node| values::ratio(node, &(min..=max));
        self.read(sources, name, parse, |value| (*value).into())
    }

    /// A number of bytes.
    pub fn size(&mut self, sources: &mut Sources, name: &'static str) -> Option<u64> {
        let Kind::Size(min, max) = self.key(name).kind else {
            unreachable!("the table says that {name} is a size")
        };
        let parse = |node: &Node| sizes::size(node, &(min..=max));
        self.read(sources, name, parse, |value| {
            sizes::show_size(*value).into()
        })
    }

    pub fn flag(&mut self, sources: &mut Sources, name: &'static str) -> bool {
        self.read(sources, name, values::flag, |value| (*value).into())
            .unwrap_or_default()
    }

    /// Free text. It may hold a secret from the environment, so it is served as it was written.
    pub fn text(&mut self, sources: &mut Sources, name: &'static str) -> Option<String> {
        let parse = |node: &Node| {
            let text = node.text()?;
            Ok((text.value.clone(), text.written().to_owned()))
        };
        self.read(sources, name, parse, |(_, written)| written.as_str().into())
            .map(|(value, _)| value)
    }

    /// The path of a file that others will read; it is to be watched.
    pub fn path(&mut self, sources: &mut Sources, name: &'static str) -> Option<PathBuf> {
        let resolved = |text: &Text, at: At| sources.resolve_path(at, &text.value);
        let parse = |node: &Node| {
            let text = node.text()?;
            if text.value.trim().is_empty() {
                return Err(Wrong::new("the path is empty", "write the path of a file"));
            }
            Ok(resolved(text, node.at))
        };
        let parsed = self.node(name).map(|node| (node.at, parse(node)));
        match parsed? {
            (at, Ok(path)) => {
                sources.name_file(at, &path);
                let shown = path.to_string_lossy().into_owned();
                self.effective.insert(name.to_owned(), shown.into());
                Some(path)
            }
            (at, Err(wrong)) => {
                sources.error(at, wrong);
                None
            }
        }
    }
}

/// A default as if it were written in the file.
fn default_node(text: &str, at: At) -> Node {
    let value = if let Ok(value) = text.parse() {
        Value::Integer(value)
    } else if let Ok(value) = text.parse() {
        Value::Flag(value)
    } else if let Ok(value) = text.parse() {
        Value::Number(value)
    } else {
        Value::Text(Text {
            value: text.to_owned(),
            written: None,
        })
    };
    Node { at, value }
}

/// The section that the named things of a top-level key have.
pub(super) fn named_section(key: &str) -> &'static Section {
    match keys::ROOT.key(key).map(|key| key.kind) {
        Some(Kind::Named(section)) => section,
        _ => unreachable!("the table says that {key} holds named sections"),
    }
}
