//! What is said about keys and words that are unknown, known only later, or there twice.

use crate::config::keys;
use crate::config::keys::Section;
use crate::config::source::Sources;
use crate::config::tree::At;
use crate::config::tree::Entry;
use crate::config::tree::Node;
use crate::config::values;
use crate::config::values::Wrong;

/// Reports keys that stand twice in one map.
pub(super) fn report_double(sources: &mut Sources, entries: &[Entry], what: &str) {
    let mut seen: std::collections::HashMap<&str, At> = std::collections::HashMap::new();
    for entry in entries {
        if let Some(first) = seen.insert(&entry.key, entry.key_at) {
            let wrong = Wrong::new(
                format!("the {what} `{}` stands twice", entry.key),
                "remove one",
            );
            sources.conflict(entry.key_at, wrong, "the other one is here", first);
        }
    }
}

pub(super) fn unknown_key(section: &Section, name: &str) -> Wrong {
    if name == "<<" {
        let message = "merge keys (`<<`) are not supported";
        return Wrong::new(message, "repeat the keys, or alias a whole value (`*name`)");
    }
    if let Some((_, instead)) = section.later.iter().find(|(later, _)| *later == name) {
        let message = format!("the key `{name}` is not supported by this version");
        return Wrong::new(message, *instead);
    }
    let shown: String = name.chars().filter(|c| !c.is_control()).take(60).collect();
    let names = section.keys.iter().map(|key| key.name);
    let help = match values::nearest(name, names.clone()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("{} has keys: {}", section.what, join(names)),
    };
    Wrong::new(format!("unknown key `{shown}`"), help)
}

pub(super) fn join<'w>(words: impl Iterator<Item = &'w str>) -> String {
    words.collect::<Vec<_>>().join(", ")
}

/// A word that a later version knows.
pub(super) fn later_word(name: &str, node: &Node) -> Option<Wrong> {
    let word = node.word()?;
    let kind = word.split(':').next().unwrap_or_default();
    let (_, _, instead) = keys::LATER_WORDS
        .iter()
        .find(|(key, words, _)| *key == name && words.contains(&kind))?;
    let message = format!("{} is not supported by this version", node.shown());
    Some(Wrong::new(message, *instead))
}
