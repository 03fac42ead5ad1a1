//! Why a request, or an answer, is refused.

use std::fmt;

/// What is wrong with a message. After any of these the connection must be closed: where the
/// next request would begin is unknown or not to be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Violation {
    /// Not `METHOD SP target SP HTTP/d.d`.
    RequestLine,
    /// A line that nobody means as HTTP/1: neither its target nor its version looks like one.
    NotHttp,
    /// More than one empty line before a request.
    EmptyLines,
    /// Longer than any method that is registered.
    Method,
    /// A byte that no URI has, or a form that the method must not have.
    Target,
    TargetTooLong,
    /// Neither HTTP/1.0 nor HTTP/1.1.
    Version,
    /// CONNECT is not allowed here.
    Connect,
    /// A CONNECT request has no body to frame.
    ConnectBody,
    BareCr,
    BareLf,
    /// NUL and its like.
    ControlByte,
    /// A field's value that goes on in a second line.
    FoldedField,
    SpaceBeforeColon,
    FieldName,
    HeadTooLarge,
    TooManyFields,
    NoHost,
    TwoHosts,
    Host,
    /// The target and the Host field name different hosts.
    HostConflict,
    ContentLength,
    TwoContentLengths,
    TransferEncoding,
    /// Transfer-Encoding in a request of HTTP/1.0.
    TransferEncodingVersion,
    LengthAndTransferEncoding,
    /// `Content_Length` and `Transfer_Encoding` become the real names in CGI-like backends.
    DisguisedField,
    Expectation,
    BodyTooLarge,
    ChunkSize,
    ChunkExtension,
    /// A chunk's data is not followed by CRLF.
    ChunkEnd,
    /// A field that must not come after a body.
    Trailer,
    TrailersTooLarge,
    /// Of an answer: not `HTTP/1.d SP ddd`.
    StatusLine,
}

impl Violation {
    /// The status of the answer.
    pub fn status(self) -> u16 {
        self.told().0
    }

    /// One word for logs, metrics and the answer's cause.
    pub fn as_str(self) -> &'static str {
        self.told().1
    }

    fn told(self) -> (u16, &'static str) {
        match self {
            Self::RequestLine => (400, "bad_request_line"),
            Self::NotHttp => (400, "not_http"),
            Self::EmptyLines => (400, "empty_lines"),
            Self::Method => (501, "unknown_method"),
            Self::Target => (400, "bad_target"),
            Self::TargetTooLong => (414, "target_too_long"),
            Self::Version => (505, "unsupported_version"),
            Self::Connect => (405, "connect_not_allowed"),
            Self::ConnectBody => (400, "connect_with_body"),
            Self::BareCr => (400, "bare_cr"),
            Self::BareLf => (400, "bare_lf"),
            Self::ControlByte => (400, "control_byte"),
            Self::FoldedField => (400, "folded_header"),
            Self::SpaceBeforeColon => (400, "space_before_colon"),
            Self::FieldName => (400, "bad_header_name"),
            Self::HeadTooLarge => (431, "head_too_large"),
            Self::TooManyFields => (431, "too_many_headers"),
            Self::NoHost => (400, "no_host"),
            Self::TwoHosts => (400, "two_hosts"),
            Self::Host => (400, "bad_host"),
            Self::HostConflict => (400, "conflicting_host"),
            Self::ContentLength => (400, "bad_length"),
            Self::TwoContentLengths => (400, "conflicting_length"),
            Self::TransferEncoding => (400, "bad_transfer_encoding"),
            Self::TransferEncodingVersion => (400, "transfer_encoding_in_http_1_0"),
            Self::LengthAndTransferEncoding => (400, "length_and_transfer_encoding"),
            Self::DisguisedField => (400, "disguised_header"),
            Self::Expectation => (417, "unknown_expectation"),
            Self::BodyTooLarge => (413, "body_too_large"),
            Self::ChunkSize => (400, "bad_chunk_size"),
            Self::ChunkExtension => (400, "chunk_extension"),
            Self::ChunkEnd => (400, "bad_chunk_end"),
            Self::Trailer => (400, "forbidden_trailer"),
            Self::TrailersTooLarge => (431, "trailers_too_large"),
            Self::StatusLine => (502, "bad_status_line"),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
