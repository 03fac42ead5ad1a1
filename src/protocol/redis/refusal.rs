//! Errors that Evergate sends to a Redis client in the server's place.

/// Longest text of a refusal: reasons are short, and some carry a peer's words.
const MAX_TEXT_BYTES: usize = 512;

/// What clients do depends on the first word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// Not to be retried as it is.
    Err,
    /// Clients wait and try again.
    Loading,
    /// A replica without its primary.
    MasterDown,
    /// Cluster-aware and Sentinel-aware clients look for the primary again.
    ReadOnly,
    /// Too many clients or a full queue: try again later.
    TryAgain,
}

impl Code {
    const fn word(self) -> &'static str {
        match self {
            Self::Err => "ERR",
            Self::Loading => "LOADING",
            Self::MasterDown => "MASTERDOWN",
            Self::ReadOnly => "READONLY",
            Self::TryAgain => "TRYAGAIN",
        }
    }
}

/// An error reply. Line breaks in `text` would start another reply, so they become blanks.
pub fn refusal(code: Code, text: &str) -> Vec<u8> {
    let text = text.replace(['\r', '\n'], " ");
    let end = text.floor_char_boundary(MAX_TEXT_BYTES);
    format!("-{} {}\r\n", code.word(), &text[..end]).into_bytes()
}
