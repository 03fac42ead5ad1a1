//! Why a connection is ended.

use std::fmt;

/// What a client sent too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flood {
    /// Not HTTP/2 at all, or no SETTINGS first (RFC 9113, 3.4).
    Preface,
    /// Streams that were reset soon after they began (CVE-2023-44487).
    Resets,
    /// A header block in many CONTINUATION frames, or in empty ones (CVE-2024-27316).
    Continuations,
    /// A header block that is large before it is even decoded.
    HeaderBlock,
    Pings,
    /// SETTINGS, their acknowledgements, or parameters in one of them.
    Settings,
    /// PRIORITY and PRIORITY_UPDATE.
    Priorities,
    /// DATA without data.
    EmptyData,
    WindowUpdates,
    /// Frames that make the server reset streams (CVE-2025-8671).
    Errors,
    GoAways,
    /// Types of frames that nobody knows.
    UnknownFrames,
}

impl Flood {
    /// The code of the GOAWAY that answers it (RFC 9113, 7).
    pub fn code(self) -> u32 {
        const PROTOCOL_ERROR: u32 = 0x1;
        const ENHANCE_YOUR_CALM: u32 = 0xb;
        match self {
            Self::Preface => PROTOCOL_ERROR,
            _ => ENHANCE_YOUR_CALM,
        }
    }

    /// One word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Preface => "bad_preface",
            Self::Resets => "rapid_reset",
            Self::Continuations => "continuation_flood",
            Self::HeaderBlock => "head_too_large",
            Self::Pings => "ping_flood",
            Self::Settings => "settings_flood",
            Self::Priorities => "priority_flood",
            Self::EmptyData => "empty_data_flood",
            Self::WindowUpdates => "window_update_flood",
            Self::Errors => "stream_error_flood",
            Self::GoAways => "goaway_flood",
            Self::UnknownFrames => "unknown_frame_flood",
        }
    }
}

impl fmt::Display for Flood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
