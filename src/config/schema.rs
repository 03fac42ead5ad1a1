//! The table of keys as a JSON schema, for editors and other tools.

use serde_json::Map;
use serde_json::Value as Json;
use serde_json::json;

use crate::config::keys;
use crate::config::keys::Key;
use crate::config::keys::Kind;
use crate::config::keys::Section;
use crate::config::keys::Unwritten;

pub(super) fn schema() -> Json {
    let mut root = section(&keys::ROOT);
    root["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    root["title"] = "Evergate configuration".into();
    root["$defs"] = json!({
        "duration": {
            "type": "string",
            "pattern": r"^([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+$|\$\{",
            "description": "A number and a unit: ms, s, m, h or d.",
        },
        "size": {
            "type": "string",
            "pattern": r"^[0-9]+(\.[0-9]+)?(B|KiB|MiB|GiB|TiB)$|\$\{",
            "description": "A number and a unit: B, KiB, MiB, GiB or TiB.",
        },
        "variable": {
            "type": "string",
            "pattern": r"\$\{",
            "description": "A value from the environment: ${NAME} or ${NAME:-default}.",
        },
    });
    root
}

fn section(section: &Section) -> Json {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for key in section.keys {
        properties.insert(key.name.to_owned(), property(key));
        if matches!(key.default, Unwritten::Required) {
            required.push(key.name);
        }
    }
    let mut object = json!({
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    });
    // An included file, or a main file with includes, has only some of them.
    if !required.is_empty() && !std::ptr::eq(section, &raw const keys::ROOT) {
        object["required"] = required.into();
    }
    object
}

fn property(key: &Key) -> Json {
    let mut value = kind(&key.kind);
    let description = match key.default {
        Unwritten::From(words) => format!("{} Default: {words}.", key.meaning),
        _ => key.meaning.to_owned(),
    };
    value["description"] = description.into();
    if let Unwritten::Is(text) = key.default {
        value["default"] = match (key.kind, text.parse::<u64>(), text.parse::<bool>()) {
            (_, Ok(number), _) => number.into(),
            (_, _, Ok(flag)) => flag.into(),
            (Kind::Ratio(_, _), ..) => text.parse::<f64>().map_or(text.into(), Json::from),
            _ => text.into(),
        };
    }
    value
}

fn kind(kind_of: &Kind) -> Json {
    let variable = json!({"$ref": "#/$defs/variable"});
    match kind_of {
        Kind::Text
        | Kind::Name
        | Kind::Backend
        | Kind::Bind
        | Kind::Address
        | Kind::Network
        | Kind::ServerName
        | Kind::Path => json!({"type": "string"}),
        Kind::Secret => json!({"type": "string", "writeOnly": true}),
        Kind::StatusRange => json!({"type": ["integer", "string"]}),
        Kind::Flag => json!({"anyOf": [{"type": "boolean"}, variable]}),
        Kind::Count(min, max) => json!({
            "anyOf": [{"type": "integer", "minimum": min, "maximum": max}, variable],
        }),
        Kind::Ratio(min, max) => json!({
            "anyOf": [{"type": "number", "minimum": min, "maximum": max}, variable],
        }),
        Kind::Duration(_, _) => json!({"$ref": "#/$defs/duration"}),
        Kind::Size(_, _) => json!({"$ref": "#/$defs/size"}),
        Kind::Choice(words) => json!({"anyOf": [{"enum": words}, variable]}),
        Kind::List(item) => json!({"type": "array", "minItems": 1, "items": kind(item)}),
        Kind::Section(inner) => section(inner),
        Kind::Map(value) => json!({
            "type": "object",
            "minProperties": 1,
            "additionalProperties": kind(value),
        }),
        Kind::Named(inner) => json!({
            "type": "object",
            "minProperties": 1,
            "additionalProperties": section(inner),
        }),
        Kind::Either(first, second) => json!({"anyOf": [kind(first), kind(second)]}),
    }
}
