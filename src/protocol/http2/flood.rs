//! Why a connection is ended.

use std::fmt;

/// What a client sent too much of. The answer is GOAWAY with ENHANCE_YOUR_CALM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flood {
    /// Not HTTP/2 at all.
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
