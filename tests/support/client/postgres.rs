//! PostgreSQL's protocol 3.0: startup without a password, simple queries.

use std::io::Read;
use std::io::Write;

use super::Row;
use super::SessionEnd;
use super::Stop;
use super::Stream;
use super::nonsense;

pub(super) const TERMINATE: &[u8] = b"X\0\0\0\x04";

/// More than any answer of a test, less than the machine's memory.
const MAX_MESSAGE_BYTES: usize = 16 << 20;

pub(super) fn login(stream: &mut Stream, user: &str) -> Result<(), Stop> {
    let mut body = 196_608_u32.to_be_bytes().to_vec();
    for text in ["user", user, "database", "postgres", ""] {
        body.extend(text.bytes());
        body.push(0);
    }
    let mut message = length_of(&body).to_vec();
    message.extend(&body);
    stream.get_mut().write_all(&message)?;
    loop {
        match read_message(stream)? {
            (b'R', body) if body.starts_with(&[0, 0, 0, 0]) => {}
            (b'R', body) => return Err(nonsense(format!("authentication {body:?}"))),
            (b'E', body) => return Err(refusal(&body).1),
            (b'Z', _) => return Ok(()),
            // ParameterStatus, BackendKeyData, notices.
            _ => {}
        }
    }
}

pub(super) fn query(stream: &mut Stream, statement: &str) -> Result<Vec<Row>, Stop> {
    let body = format!("{statement}\0");
    let mut message = vec![b'Q'];
    message.extend(length_of(body.as_bytes()));
    message.extend(body.bytes());
    // A server that ended the session meanwhile has said why before it closed: read that first.
    let _ = stream.get_mut().write_all(&message);
    let mut rows = Vec::new();
    let mut refused = None;
    loop {
        match read_message(stream)? {
            (b'D', body) => rows.push(row(&body)?),
            (b'E', body) => {
                let (end, stop) = refusal(&body);
                // Nothing follows FATAL.
                if end == SessionEnd::Goes {
                    return Err(stop);
                }
                refused = Some(stop);
            }
            (b'Z', _) => return refused.map_or(Ok(rows), Err),
            _ => {}
        }
    }
}

fn read_message(stream: &mut Stream) -> Result<(u8, Vec<u8>), Stop> {
    let mut header = [0; 5];
    stream.read_exact(&mut header)?;
    let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
    if !(4..MAX_MESSAGE_BYTES).contains(&length) {
        return Err(nonsense(format!("a message of {length} bytes")));
    }
    let mut body = vec![0; length - 4];
    stream.read_exact(&mut body)?;
    Ok((header[0], body))
}

/// ErrorResponse: fields of a letter and a text; `V` severity, `C` SQLSTATE.
fn refusal(body: &[u8]) -> (SessionEnd, Stop) {
    let field = |letter: u8| {
        let mut fields = body.split(|byte| *byte == 0);
        let found = fields.find(|field| field.first() == Some(&letter));
        found.map(|field| String::from_utf8_lossy(&field[1..]).into_owned())
    };
    let end = match field(b'V').as_deref() {
        Some("FATAL" | "PANIC") => SessionEnd::Goes,
        _ => SessionEnd::Stays,
    };
    let code = field(b'C').unwrap_or_else(|| "no SQLSTATE".to_owned());
    (end, Stop::Server { code, end })
}

fn row(body: &[u8]) -> Result<Row, Stop> {
    let short = || nonsense("a short row");
    let (count, mut rest) = body.split_first_chunk::<2>().ok_or_else(short)?;
    let mut row = Row::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, after) = rest.split_first_chunk::<4>().ok_or_else(short)?;
        // -1 is NULL.
        let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
        let (value, after) = after.split_at_checked(length).ok_or_else(short)?;
        row.push(String::from_utf8_lossy(value).into_owned());
        rest = after;
    }
    Ok(row)
}

/// The length field counts itself.
fn length_of(body: &[u8]) -> [u8; 4] {
    u32::try_from(body.len() + 4).unwrap().to_be_bytes()
}
