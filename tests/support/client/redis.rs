//! RESP2: words in, a status, a number, a text or a list out.

use std::io::BufRead;
use std::io::Read;
use std::io::Write;

use super::Row;
use super::SessionEnd;
use super::Stop;
use super::Stream;
use super::nonsense;

/// Redis greets nobody; PING shows that somebody serves.
pub(super) fn login(stream: &mut Stream) -> Result<(), Stop> {
    command(stream, "PING").map(|_| ())
}

/// A list becomes rows of one column; lists within lists become rows.
pub(super) fn command(stream: &mut Stream, statement: &str) -> Result<Vec<Row>, Stop> {
    let words: Vec<&str> = statement.split_whitespace().collect();
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        request += &format!("${}\r\n{word}\r\n", word.len());
    }
    // A server that ended the session meanwhile may have said why: read that first.
    let _ = stream.get_mut().write_all(request.as_bytes());
    Ok(match read_reply(stream)? {
        Reply::Text(text) => vec![vec![text]],
        Reply::List(replies) => replies.into_iter().map(Reply::into_row).collect(),
    })
}

enum Reply {
    Text(String),
    List(Vec<Reply>),
}

impl Reply {
    fn into_row(self) -> Row {
        match self {
            Self::Text(text) => vec![text],
            Self::List(replies) => replies.into_iter().flat_map(Self::into_row).collect(),
        }
    }
}

fn read_reply(stream: &mut Stream) -> Result<Reply, Stop> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Err(Stop::Io(std::io::ErrorKind::UnexpectedEof.into()));
    }
    let line = line.trim_end();
    let (kind, rest) = line
        .split_at_checked(1)
        .ok_or_else(|| nonsense("no kind"))?;
    let length = || rest.parse::<i64>().map_err(|_| nonsense(line));
    match kind {
        "+" | ":" => Ok(Reply::Text(rest.to_owned())),
        "-" => Err(Stop::Server {
            code: rest.split(' ').next().unwrap_or(rest).to_owned(),
            end: SessionEnd::Stays,
        }),
        "$" => {
            // -1 is nil.
            let Ok(length) = usize::try_from(length()?) else {
                return Ok(Reply::Text(String::new()));
            };
            let mut text = vec![0; length + 2];
            stream.read_exact(&mut text)?;
            text.truncate(length);
            Ok(Reply::Text(String::from_utf8_lossy(&text).into_owned()))
        }
        "*" => {
            let replies = (0..length()?).map(|_| read_reply(stream));
            replies.collect::<Result<_, _>>().map(Reply::List)
        }
        _ => Err(nonsense(line)),
    }
}
