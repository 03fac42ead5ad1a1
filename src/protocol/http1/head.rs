//! What a request's head says about where the request ends and whom it is for.

use super::guard::Limits;
use super::scan::is_token;
use super::scan::position;
use super::scan::trim;
use super::target;
use super::violation::Violation;

/// The longest registered method has 17 bytes (UPDATEREDIRECTREF).
const MAX_METHOD_BYTES: usize = 32;
/// What a request line has beside its method and its target.
const REQUEST_LINE_REST_BYTES: usize = 2 + b"HTTP/1.1".len();
/// No field's name that is in use is half as long.
const MAX_NAME_BYTES: usize = 256;
/// More digits do not fit into 63 bits, which is what every reader can count.
const MAX_LENGTH_DIGITS: usize = 19;

/// Fields that must not come after the body (RFC 9110, section 6.5.1): they frame, route or
/// authenticate the request, or say how to read its body, which was done without them.
const NEVER_TRAILERS: &[&[u8]] = &[
    b"authorization",
    b"connection",
    b"content-encoding",
    b"content-length",
    b"content-range",
    b"content-type",
    b"content_length",
    b"cookie",
    b"expect",
    b"forwarded",
    b"host",
    b"keep-alive",
    b"max-forwards",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"transfer_encoding",
    b"upgrade",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-proto",
];

/// How the body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Length(u64),
    Chunked,
}

/// What is known of the head under way, after its request line.
#[derive(Debug, Default)]
pub struct Head {
    is_http_1_0: bool,
    is_connect: bool,
    /// The host in the target, kept until Host comes. Rare: only a proxy's clients name it.
    authority: Option<Box<[u8]>>,
    has_host: bool,
    length: Option<u64>,
    is_chunked: bool,
    wants_upgrade: bool,
    bytes: usize,
    fields: usize,
}

impl Head {
    /// The longest request line that may come, and what a longer one is refused as.
    pub fn max_request_line(limits: &Limits) -> (usize, Violation) {
        let by_target = limits.max_uri_bytes + MAX_METHOD_BYTES + REQUEST_LINE_REST_BYTES;
        if by_target <= limits.max_head_bytes {
            (by_target, Violation::TargetTooLong)
        } else {
            (limits.max_head_bytes, Violation::HeadTooLarge)
        }
    }

    /// Forgets the head before.
    pub fn begin(&mut self, line: &[u8], limits: &Limits) -> Result<(), Violation> {
        let end = position(line, b' ').ok_or(Violation::RequestLine)?;
        let (method, rest) = (&line[..end], &line[end + 1..]);
        if !is_token(method) {
            return Err(Violation::RequestLine);
        }
        if method.len() > MAX_METHOD_BYTES {
            return Err(Violation::Method);
        }
        let (target, version) = rest.split_last_chunk::<9>().ok_or(Violation::RequestLine)?;
        let is_http_1_0 = match version {
            b" HTTP/1.1" => false,
            b" HTTP/1.0" => true,
            [b' ', b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
                if major.is_ascii_digit() && minor.is_ascii_digit() =>
            {
                return Err(Violation::Version);
            }
            _ if is_no_http(rest) => return Err(Violation::NotHttp),
            _ => return Err(Violation::RequestLine),
        };
        if target.is_empty() || target.contains(&b' ') {
            return Err(Violation::RequestLine);
        }
        if target.len() > limits.max_uri_bytes {
            return Err(Violation::TargetTooLong);
        }
        let authority = target::authority(method, target)?;
        let is_connect = method == b"CONNECT";
        if is_connect && !limits.allow_connect {
            return Err(Violation::Connect);
        }
        *self = Self {
            is_http_1_0,
            is_connect,
            authority: authority.map(Box::from),
            bytes: line.len() + 2,
            ..Self::default()
        };
        Ok(())
    }

    /// The longest line that may come next.
    pub fn max_field_bytes(&self, limits: &Limits) -> usize {
        limits.max_head_bytes.saturating_sub(self.bytes + 2)
    }

    pub fn add(&mut self, line: &[u8], limits: &Limits) -> Result<(), Violation> {
        let (name, value) = field(line)?;
        self.bytes += line.len() + 2;
        self.fields += 1;
        // By length first: most fields are none of these.
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => self.host(value)?,
            6 if name.eq_ignore_ascii_case(b"cookie") => {
                self.fields += value.iter().filter(|byte| **byte == b';').count();
            }
            6 if name.eq_ignore_ascii_case(b"expect") => expect(value)?,
            7 if name.eq_ignore_ascii_case(b"upgrade") => self.upgrade(value),
            14 if name.eq_ignore_ascii_case(b"content-length") => self.content_length(value)?,
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                self.transfer_encoding(value)?;
            }
            14 if name.eq_ignore_ascii_case(b"content_length") => {
                return Err(Violation::DisguisedField);
            }
            17 if name.eq_ignore_ascii_case(b"transfer_encoding") => {
                return Err(Violation::DisguisedField);
            }
            _ => {}
        }
        if self.fields > limits.max_headers {
            return Err(Violation::TooManyFields);
        }
        Ok(())
    }

    /// How the body ends, now that the head is complete.
    pub fn end(&self, limits: &Limits) -> Result<Framing, Violation> {
        if !self.has_host && !self.is_http_1_0 {
            return Err(Violation::NoHost);
        }
        if self.is_chunked && self.length.is_some() {
            return Err(Violation::LengthAndTransferEncoding);
        }
        if self.is_connect && (self.is_chunked || self.length.is_some()) {
            return Err(Violation::ConnectBody);
        }
        if self.is_chunked {
            return Ok(Framing::Chunked);
        }
        let length = self.length.unwrap_or(0);
        if limits.max_body_bytes.is_some_and(|max| length > max.get()) {
            return Err(Violation::BodyTooLarge);
        }
        Ok(Framing::Length(length))
    }

    /// Whether the bytes after this request may be another protocol's. More is believed here than
    /// an upgrade needs (Connection is not looked at): to wait for an answer costs nothing.
    pub fn wants_upgrade(&self) -> bool {
        self.is_connect || self.wants_upgrade
    }

    fn host(&mut self, value: &[u8]) -> Result<(), Violation> {
        if self.has_host {
            return Err(Violation::TwoHosts);
        }
        self.has_host = true;
        if !target::is_authority(value) {
            return Err(Violation::Host);
        }
        match self.authority.take() {
            Some(named) if !named.eq_ignore_ascii_case(value) => Err(Violation::HostConflict),
            _ => Ok(()),
        }
    }

    /// h2c by Upgrade is deprecated (RFC 9113, section 3.1) and must not be passed on.
    fn upgrade(&mut self, value: &[u8]) {
        let mut protocols = value.split(|byte| *byte == b',').map(trim);
        let is_other =
            |protocol: &[u8]| !protocol.is_empty() && !protocol.eq_ignore_ascii_case(b"h2c");
        self.wants_upgrade |= !self.is_http_1_0 && protocols.any(is_other);
    }

    /// Digits, no list, and no zero in front, which some readers take for octal.
    fn content_length(&mut self, value: &[u8]) -> Result<(), Violation> {
        if self.length.is_some() {
            return Err(Violation::TwoContentLengths);
        }
        let is_number = value.iter().all(u8::is_ascii_digit)
            && (value.first() != Some(&b'0') || value.len() == 1)
            && value.len() <= MAX_LENGTH_DIGITS;
        let length = str::from_utf8(value)
            .ok()
            .filter(|_| is_number)
            .and_then(|digits| digits.parse::<i64>().ok())
            .ok_or(Violation::ContentLength)?;
        self.length = Some(length.unsigned_abs());
        Ok(())
    }

    fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), Violation> {
        if self.is_http_1_0 {
            return Err(Violation::TransferEncodingVersion);
        }
        if self.is_chunked || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Violation::TransferEncoding);
        }
        self.is_chunked = true;
        Ok(())
    }
}

/// Two words behind the first of which neither is HTTP/1's, such as the first line of a client that
/// means HTTP/2 and gets it wrong.
fn is_no_http(rest: &[u8]) -> bool {
    let Some(space) = position(rest, b' ') else {
        return false;
    };
    let (target, version) = (&rest[..space], &rest[space + 1..]);
    let is_target = target.iter().any(|byte| b"/*:".contains(byte));
    let is_version = version.len() >= 4 && version[..4].eq_ignore_ascii_case(b"HTTP");
    !target.is_empty() && !is_target && !is_version && !version.contains(&b' ')
}

/// The only expectation there is (RFC 9110, section 10.1.1).
fn expect(value: &[u8]) -> Result<(), Violation> {
    if value.eq_ignore_ascii_case(b"100-continue") {
        return Ok(());
    }
    Err(Violation::Expectation)
}

/// Whether a field may come after a body.
pub fn check_trailer(line: &[u8]) -> Result<(), Violation> {
    let (name, _) = field(line)?;
    let mut never = NEVER_TRAILERS.iter();
    if never.any(|never| name.eq_ignore_ascii_case(never)) {
        return Err(Violation::Trailer);
    }
    Ok(())
}

/// `name: value` with nothing between name and colon (RFC 9112, section 5).
pub fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Violation> {
    let end = position(line, b':').unwrap_or(line.len());
    let name = &line[..end];
    if !is_token(name) || name.len() > MAX_NAME_BYTES || end == line.len() {
        return Err(match line {
            [b' ' | b'\t', ..] => Violation::FoldedField,
            _ if matches!(name, [.., b' ' | b'\t']) => Violation::SpaceBeforeColon,
            _ => Violation::FieldName,
        });
    }
    Ok((name, trim(&line[end + 1..])))
}
