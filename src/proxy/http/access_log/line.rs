//! A line of JSON, written without allocations: what a client sent is escaped and bounded.

use std::fmt::Write;
use std::time::Duration;

use http::HeaderValue;

use crate::lines::is_steering;

/// A JSON object under way. Writing to a string cannot fail.
pub(super) struct Line<'a> {
    pub(super) out: &'a mut String,
}

impl Line<'_> {
    fn key(&mut self, key: &str) {
        self.out.push(if self.out.is_empty() { '{' } else { ',' });
        self.out.push('"');
        self.out.push_str(key);
        self.out.push_str("\":");
    }

    /// A number, or null.
    pub(super) fn optional(&mut self, key: &str, value: Option<impl std::fmt::Display>) {
        self.key(key);
        match value {
            Some(value) => _ = write!(self.out, "{value}"),
            None => self.out.push_str("null"),
        }
    }

    /// Something of ours that needs no escapes.
    pub(super) fn shown(&mut self, key: &str, value: impl std::fmt::Display) {
        self.key(key);
        let _ = write!(self.out, "\"{value}\"");
    }

    pub(super) fn milliseconds(&mut self, key: &str, value: Option<Duration>) {
        self.key(key);
        let Some(value) = value else {
            return self.out.push_str("null");
        };
        let us = value.as_micros();
        let _ = write!(self.out, "{}.{:03}", us / 1000, us % 1000);
    }

    /// One of our own words, or of the configuration: short, but escaped all the same.
    pub(super) fn name(&mut self, key: &str, value: Option<&str>) {
        match value {
            Some(value) => self.text(key, value, usize::MAX),
            None => self.optional(key, None::<u8>),
        }
    }

    pub(super) fn header(&mut self, key: &str, value: Option<&HeaderValue>, max_bytes: usize) {
        let Some(value) = value else {
            return self.optional(key, None::<u8>);
        };
        match value.to_str() {
            Ok(text) => self.text(key, text, max_bytes),
            // Bytes beyond ASCII are allowed there, in no particular encoding.
            Err(_) => {
                let bytes = value.as_bytes();
                let text = String::from_utf8_lossy(&bytes[..bytes.len().min(max_bytes * 2)]);
                self.text(key, &text, max_bytes);
            }
        }
    }

    /// A string: what could end it, start a line or steer a terminal is escaped, and what is
    /// over `max_bytes` is cut off, which shows as an ellipsis.
    pub(super) fn text(&mut self, key: &str, value: &str, max_bytes: usize) {
        self.key(key);
        self.out.push('"');
        let kept = &value[..value.floor_char_boundary(max_bytes)];
        let mut plain = 0;
        for (at, byte) in kept.bytes().enumerate() {
            if is_plain(byte) {
                continue;
            }
            // The first byte of a character, or one inside that was written with the first.
            if at < plain || !kept.is_char_boundary(at) {
                continue;
            }
            self.out.push_str(&kept[plain..at]);
            let character = kept[at..].chars().next().unwrap_or('?');
            self.escaped(character);
            plain = at + character.len_utf8();
        }
        self.out.push_str(&kept[plain..]);
        if kept.len() < value.len() {
            self.out.push('…');
        }
        self.out.push('"');
    }

    fn escaped(&mut self, character: char) {
        match character {
            '"' | '\\' => {
                self.out.push('\\');
                self.out.push(character);
            }
            harmless if !is_steering(harmless) => self.out.push(harmless),
            steering => _ = write!(self.out, "\\u{:04x}", u32::from(steering)),
        }
    }
}

/// Written as it is.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}
