//! MariaDB's protocol: login without a password, the text protocol of COM_QUERY.

use std::io::Read;
use std::io::Write;

use super::Row;
use super::SessionEnd;
use super::Stop;
use super::Stream;
use super::nonsense;

pub(super) const QUIT: &[u8] = b"\x01\0\0\0\x01";

/// LONG_PASSWORD, CONNECT_WITH_DB, PROTOCOL_41, TRANSACTIONS, SECURE_CONNECTION, PLUGIN_AUTH.
const CAPABILITIES: u32 = 0x1 | 0x8 | 0x200 | 0x2000 | 0x8000 | 0x8_0000;
const MAX_PACKET_BYTES: u32 = 1 << 24;
const UTF8MB4: u8 = 45;

pub(super) fn login(stream: &mut Stream, user: &str) -> Result<(), Stop> {
    let (sequence, greeting) = read_packet(stream)?;
    if greeting.first() == Some(&0xff) {
        return Err(refusal(&greeting));
    }
    let mut answer = Vec::new();
    answer.extend(CAPABILITIES.to_le_bytes());
    answer.extend(MAX_PACKET_BYTES.to_le_bytes());
    answer.push(UTF8MB4);
    answer.extend([0; 23]);
    answer.extend(user.bytes());
    // The end of the name, and an empty password.
    answer.extend([0, 0]);
    answer.extend(b"app\0");
    answer.extend(b"mysql_native_password\0");
    write_packet(stream, sequence + 1, &answer)?;
    loop {
        let (sequence, packet) = read_packet(stream)?;
        match packet.first() {
            Some(0x00) => return Ok(()),
            // Another plugin is asked for; an empty password is empty in all of them.
            Some(0xfe) => write_packet(stream, sequence + 1, b"")?,
            Some(0xff) => return Err(refusal(&packet)),
            _ => return Err(nonsense("a strange answer to the login")),
        }
    }
}

pub(super) fn query(stream: &mut Stream, statement: &str) -> Result<Vec<Row>, Stop> {
    let command = format!("\x03{statement}");
    // A server that ended the session meanwhile may have said why: read that first.
    let _ = write_packet(stream, 0, command.as_bytes());
    let (_, first) = read_packet(stream)?;
    match first.first() {
        Some(0x00) => return Ok(Vec::new()),
        Some(0xff) => return Err(refusal(&first)),
        _ => {}
    }
    // Column definitions up to an EOF packet, then rows up to another.
    while !is_eof(&read_packet(stream)?.1) {}
    let mut rows = Vec::new();
    loop {
        let (_, packet) = read_packet(stream)?;
        if packet.first() == Some(&0xff) {
            return Err(refusal(&packet));
        }
        if is_eof(&packet) {
            return Ok(rows);
        }
        rows.push(row(&packet)?);
    }
}

fn read_packet(stream: &mut Stream) -> Result<(u8, Vec<u8>), Stop> {
    let mut header = [0; 4];
    stream.read_exact(&mut header)?;
    let length = u32::from_le_bytes([header[0], header[1], header[2], 0]);
    let mut body = vec![0; length as usize];
    stream.read_exact(&mut body)?;
    Ok((header[3], body))
}

fn write_packet(stream: &mut Stream, sequence: u8, body: &[u8]) -> Result<(), Stop> {
    let length = u32::try_from(body.len()).unwrap().to_le_bytes();
    let mut packet = vec![length[0], length[1], length[2], sequence];
    packet.extend(body);
    Ok(stream.get_mut().write_all(&packet)?)
}

fn is_eof(packet: &[u8]) -> bool {
    packet.first() == Some(&0xfe) && packet.len() < 9
}

fn refusal(packet: &[u8]) -> Stop {
    let number = packet.get(1..3);
    let number = number.map_or(0, |bytes| u16::from_le_bytes([bytes[0], bytes[1]]));
    // 1053: the server shuts down; 1927: it killed the connection.
    let ends = matches!(number, 1053 | 1927);
    Stop::Server {
        code: number.to_string(),
        end: if ends {
            SessionEnd::Goes
        } else {
            SessionEnd::Stays
        },
    }
}

/// Texts with a length before each; as long as 64 KB here.
fn row(mut rest: &[u8]) -> Result<Row, Stop> {
    let short = || nonsense("a short row");
    let mut row = Row::new();
    while let Some((first, after)) = rest.split_first() {
        let (length, after) = match first {
            // NULL.
            0xfb => (0, after),
            0xfc => {
                let (length, after) = after.split_first_chunk::<2>().ok_or_else(short)?;
                (usize::from(u16::from_le_bytes(*length)), after)
            }
            0xfd.. => return Err(nonsense("a longer text than a test reads")),
            length => (usize::from(*length), after),
        };
        let (value, after) = after.split_at_checked(length).ok_or_else(short)?;
        row.push(String::from_utf8_lossy(value).into_owned());
        rest = after;
    }
    Ok(row)
}
