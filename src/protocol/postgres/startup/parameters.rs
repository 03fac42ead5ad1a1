//! The StartupMessage: protocol version and parameters.

use std::borrow::Cow;

use crate::protocol::postgres::cursor::Cursor;
use crate::protocol::postgres::startup::StartupError;

/// Drivers send five to ten. Each is looked at on every lookup.
pub const MAX_PARAMETERS: usize = 128;

const VERSION_AT: usize = 4;
const PARAMETERS_AT: usize = 8;

/// A StartupMessage, kept as it came, so that it can be forwarded as it came.
///
/// Names and values are bytes in an encoding that is not known yet. Where a name comes twice the
/// last one counts, as in the server: routing must not see another user than the server does.
#[derive(Clone, PartialEq, Eq)]
pub struct StartupMessage {
    message: Box<[u8]>,
}

/// What parameter `replication` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replication {
    /// An ordinary session.
    None,
    /// A WAL sender for the whole server.
    Physical,
    /// A WAL sender connected to a database.
    Logical,
}

impl StartupMessage {
    /// `message` is whole: its length field is right and its version is 3.
    pub(super) fn parse(message: &[u8]) -> Result<Self, StartupError> {
        let mut rest = Cursor(&message[PARAMETERS_AT..]);
        let mut count = 0;
        while rest.0.first().is_some_and(|byte| *byte != 0) {
            count += 1;
            if count > MAX_PARAMETERS {
                return Err(StartupError::TooManyParameters);
            }
            let pair = rest.c_string().zip(rest.c_string());
            pair.ok_or(StartupError::Layout)?;
        }
        if rest.0 != [0] {
            return Err(StartupError::Layout);
        }
        let message = Self {
            message: message.into(),
        };
        if message.user().is_empty() {
            return Err(StartupError::MissingUser);
        }
        Ok(message)
    }

    /// The whole message, to be forwarded.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.message
    }

    /// Major (always 3) and minor version.
    #[must_use]
    pub fn version(&self) -> (u16, u16) {
        let mut version = Cursor(&self.message[VERSION_AT..PARAMETERS_AT]);
        let [major, minor] = [version.u16(), version.u16()].map(Option::unwrap_or_default);
        (major, minor)
    }

    /// All parameters in their order.
    pub fn parameters(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut rest = Cursor(&self.message[PARAMETERS_AT..]);
        std::iter::from_fn(move || {
            let name = rest.c_string()?;
            // The list ends with an empty name.
            (!name.is_empty()).then_some(())?;
            Some((name, rest.c_string()?))
        })
    }

    /// The value of a parameter with exactly this name.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&[u8]> {
        self.parameters()
            .filter_map(|(key, value)| (key == name.as_bytes()).then_some(value))
            .last()
    }

    /// Never empty.
    #[must_use]
    pub fn user(&self) -> &[u8] {
        self.parameter("user").unwrap_or_default()
    }

    /// As the server sees it: the user's name if none was given.
    #[must_use]
    pub fn database(&self) -> &[u8] {
        self.parameter("database")
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| self.user())
    }

    /// `None` also if it is not valid UTF-8. It is the client's claim: escape it before it is shown.
    #[must_use]
    pub fn application_name(&self) -> Option<&str> {
        str::from_utf8(self.parameter("application_name")?).ok()
    }

    /// A value that the server will not understand counts as none: it refuses the session.
    #[must_use]
    pub fn replication(&self) -> Replication {
        match self.parameter("replication") {
            Some(b"database") => Replication::Logical,
            Some(value) if is_true(value) => Replication::Physical,
            _ => Replication::None,
        }
    }

    /// The setting `name` with which the session starts: a parameter of its own, or in `options` as
    /// `-c name=value` or `--name=value`. Case does not matter, the last one counts, and a
    /// parameter of its own wins, all as in the server.
    #[must_use]
    pub fn option(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let own = self
            .parameters()
            .filter_map(|(key, value)| {
                key.eq_ignore_ascii_case(name.as_bytes())
                    .then_some(Cow::Borrowed(value))
            })
            .last();
        own.or_else(|| option_in(self.parameter("options")?, name).map(Cow::Owned))
    }
}

impl std::fmt::Debug for StartupMessage {
    /// User and database only: `options` may hold what an application keeps secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StartupMessage")
            .field("user", &String::from_utf8_lossy(self.user()))
            .field("database", &String::from_utf8_lossy(self.database()))
            .finish_non_exhaustive()
    }
}

/// The server's idea of a boolean: any unambiguous beginning of true, yes or on.
fn is_true(value: &[u8]) -> bool {
    let value = value.to_ascii_lowercase();
    let begins = |word: &[u8]| !value.is_empty() && word.starts_with(&value);
    value == b"1" || value == b"on" || begins(b"true") || begins(b"yes")
}

/// The last `-c name=value`, `-cname=value` or `--name=value` in a command line.
fn option_in(options: &[u8], name: &str) -> Option<Vec<u8>> {
    let mut found = None;
    let mut words = words(options).into_iter();
    while let Some(word) = words.next() {
        let setting = match word.as_slice() {
            b"-c" => words.next(),
            [b'-', b'-' | b'c', setting @ ..] => Some(setting.to_vec()),
            _ => None,
        };
        let Some(setting) = setting else { continue };
        let Some(equals) = setting.iter().position(|byte| *byte == b'=') else {
            continue;
        };
        // The server reads `--work-mem` as `work_mem`.
        let key = setting[..equals]
            .iter()
            .map(|byte| if *byte == b'-' { b'_' } else { *byte });
        if key
            .map(|byte| byte.to_ascii_lowercase())
            .eq(name.bytes().map(|byte| byte.to_ascii_lowercase()))
        {
            found = Some(setting[equals + 1..].to_vec());
        }
    }
    found
}

/// Splits as the server does (`pg_split_opts`): at white space, a backslash keeps the next byte.
fn words(options: &[u8]) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut bytes = options.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b' ' | b'\t'..=b'\r' => words.extend(word.take()),
            b'\\' => word.get_or_insert_default().extend(bytes.next()),
            _ => word.get_or_insert_default().push(byte),
        }
    }
    words.extend(word);
    words
}
