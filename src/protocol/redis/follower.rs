//! Follows the replies of a server for errors that tell about its role.
//!
//! Strings are skipped by arithmetic, aggregates by counting. After anything that is no reply
//! (a replication stream, a protocol that we do not know) the follower looks at nothing any more.

/// Enough of a line to know the error, and any length.
const LINE_PREFIX_BYTES: usize = 40;
/// More parts in one reply than this, and we have lost count: Redis's limit for an array.
const MAX_PENDING_PARTS: u64 = i32::MAX as u64 * 2;

/// An error reply that tells about the server, not about the command.
///
/// A script can make up any error, so that this is a reason to ask the server, and at most a
/// short quarantine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// `READONLY`: a replica. Also `UNBLOCKED`, which ends blocking commands at a demotion, and
    /// Valkey's `REDIRECT`.
    ReadOnly,
    /// `LOADING`: reading its data set.
    Loading,
    /// `MASTERDOWN`: a replica that has lost its primary.
    PrimaryDown,
    /// `NOREPLICAS`: a primary that lacks replicas to take writes.
    TooFewReplicas,
    /// `CLUSTERDOWN`: slots are not served.
    ClusterDown,
}

/// Follows one session's replies. Feed it every byte in the order in which it is passed on.
#[derive(Debug)]
pub struct ServerFollower {
    stage: Stage,
    /// Parts of the current reply that are still to come; 0 between replies.
    pending: u64,
    line: [u8; LINE_PREFIX_BYTES],
    /// Of the current line so far, kept or not.
    line_bytes: usize,
    last_byte: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Line,
    /// The content of a string.
    Content {
        missing_bytes: u64,
    },
    /// The CR behind it.
    Cr,
    /// The LF behind that.
    Lf,
    Transparent,
}

impl Default for ServerFollower {
    fn default() -> Self {
        Self::new()
    }
}

impl ServerFollower {
    pub fn new() -> Self {
        Self {
            stage: Stage::Line,
            pending: 0,
            line: [0; LINE_PREFIX_BYTES],
            line_bytes: 0,
            last_byte: 0,
        }
    }

    /// Takes bytes on their way to the client; returns what the error replies in them prove.
    pub fn on_server(&mut self, bytes: &[u8]) -> Vec<Proof> {
        let mut proofs = Vec::new();
        let mut rest = bytes;
        while let Some(first) = rest.first() {
            rest = match self.stage {
                Stage::Transparent => break,
                Stage::Content { missing_bytes } => self.skip(rest, missing_bytes),
                Stage::Cr | Stage::Lf => {
                    self.on_end_of_content(*first);
                    &rest[1..]
                }
                Stage::Line => {
                    let end = rest.iter().position(|byte| *byte == b'\n');
                    let (part, after) = rest.split_at(end.map_or(rest.len(), |end| end + 1));
                    self.keep_line(part);
                    if end.is_some() {
                        proofs.extend(self.on_line());
                        self.line_bytes = 0;
                    }
                    after
                }
            };
        }
        proofs
    }

    /// All replies so far are complete: an error of our own would be a reply of its own.
    pub fn is_between_replies(&self) -> bool {
        self.stage == Stage::Line && self.pending == 0 && self.line_bytes == 0
    }

    /// Nothing more will be learned: the caller may stop feeding bytes.
    pub fn is_transparent(&self) -> bool {
        self.stage == Stage::Transparent
    }

    fn skip<'a>(&mut self, bytes: &'a [u8], missing_bytes: u64) -> &'a [u8] {
        let available = bytes.len() as u64;
        if available < missing_bytes {
            let missing_bytes = missing_bytes - available;
            self.stage = Stage::Content { missing_bytes };
            return &[];
        }
        self.stage = Stage::Cr;
        // At most the length of the slice.
        &bytes[missing_bytes as usize..]
    }

    /// A snapshot for a replica is a string without CRLF: here the follower notices.
    fn on_end_of_content(&mut self, byte: u8) {
        self.stage = match (self.stage, byte) {
            (Stage::Cr, b'\r') => Stage::Lf,
            (Stage::Lf, b'\n') => Stage::Line,
            _ => Stage::Transparent,
        };
    }

    fn keep_line(&mut self, part: &[u8]) {
        let kept = self.line_bytes.min(LINE_PREFIX_BYTES);
        let count = part.len().min(LINE_PREFIX_BYTES - kept);
        self.line[kept..kept + count].copy_from_slice(&part[..count]);
        self.line_bytes = self.line_bytes.saturating_add(part.len());
        // The byte in front of the LF that may end this part.
        match part {
            [.., byte, b'\n'] => self.last_byte = *byte,
            [b'\n'] => {}
            [.., byte] => self.last_byte = *byte,
            [] => {}
        }
    }

    fn on_line(&mut self) -> Option<Proof> {
        // A type, CR and LF at least.
        if self.line_bytes < 3 || self.last_byte != b'\r' {
            self.stage = Stage::Transparent;
            return None;
        }
        let kept = (self.line_bytes - 2).min(LINE_PREFIX_BYTES);
        let line = self.line;
        let (kind, text) = (line[0], &line[1..kept]);
        let is_whole = self.line_bytes - 2 <= LINE_PREFIX_BYTES;
        let is_top_level = self.pending == 0;
        if is_top_level {
            self.pending = 1;
        }
        let parts = match kind {
            b'+' if is_top_level && starts_replication(text) => None,
            b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => Some(0),
            _ if !is_whole => None,
            b'$' | b'=' | b'!' => self.begin_content(text),
            b'*' | b'~' | b'>' => length(text),
            b'%' => length(text).map(|pairs| pairs.saturating_mul(2)),
            // A remark: the value itself is still to come.
            b'|' => length(text).map(|pairs| pairs.saturating_mul(2).saturating_add(1)),
            _ => None,
        };
        self.pending = self.pending.saturating_add(parts.unwrap_or(u64::MAX)) - 1;
        if self.pending > MAX_PENDING_PARTS {
            self.stage = Stage::Transparent;
        }
        (kind == b'-' && is_top_level)
            .then(|| proof(text))
            .flatten()
    }

    fn begin_content(&mut self, text: &[u8]) -> Option<u64> {
        if text != b"-1" {
            let missing_bytes = length(text)?;
            self.stage = Stage::Content { missing_bytes };
        }
        Some(0)
    }
}

/// A length; the null of RESP2 has no parts.
fn length(text: &[u8]) -> Option<u64> {
    let text = str::from_utf8(text).ok()?;
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    match text {
        "-1" => Some(0),
        _ if is_number => text.parse().ok(),
        _ => None,
    }
}

/// The answers to PSYNC, behind which no replies follow.
fn starts_replication(text: &[u8]) -> bool {
    text.starts_with(b"FULLRESYNC") || text.starts_with(b"CONTINUE")
}

/// What an error proves, by its first word.
pub fn proof(error: &[u8]) -> Option<Proof> {
    let end = error.iter().position(|byte| *byte == b' ');
    match &error[..end.unwrap_or(error.len())] {
        b"READONLY" | b"UNBLOCKED" | b"REDIRECT" => Some(Proof::ReadOnly),
        b"LOADING" => Some(Proof::Loading),
        b"MASTERDOWN" => Some(Proof::PrimaryDown),
        b"NOREPLICAS" => Some(Proof::TooFewReplicas),
        b"CLUSTERDOWN" => Some(Proof::ClusterDown),
        _ => None,
    }
}

/// How the bytes are cut changes nothing.
pub(super) fn fuzz(data: &[u8]) {
    let (mut whole, mut split) = (ServerFollower::new(), ServerFollower::new());
    let proofs = whole.on_server(data);
    let split_proofs: Vec<Proof> = data
        .chunks(1)
        .flat_map(|byte| split.on_server(byte))
        .collect();
    assert_eq!(proofs, split_proofs);
    assert_eq!(whole.is_between_replies(), split.is_between_replies());
    assert_eq!(whole.is_transparent(), split.is_transparent());
}
