//! The handful of statements that an embedded server knows.

use crate::cli::demo::history::History;
use crate::protocol::postgres::TransactionStatus;
use crate::protocol::postgres::backend;
use crate::protocol::postgres::error::ErrorResponse;
use crate::protocol::postgres::sqlstate::SqlState;

/// Creates the demo's table, on real servers; an embedded one has nothing else.
pub const CREATE: &str = "CREATE TABLE demo (id bigint)";
/// Which server is it, and what does it have? The first column names the server.
pub const LOOK: &str =
    "SELECT inet_server_port() AS port, count(*) AS rows, max(id) AS last FROM demo";
/// Rows in one page: an answer stays far below a client's limit.
const PAGE_ROWS: usize = 1000;

const INSERT: &str = "INSERT INTO demo VALUES (";
const PAGE: &str = "SELECT id, count(*) AS times FROM demo WHERE id > ";

pub fn insert(id: u64) -> String {
    format!("{INSERT}{id})")
}

/// Each identifier above this one, and how often it is there.
pub fn page(above: u64) -> String {
    format!("{PAGE}{above} GROUP BY id ORDER BY id LIMIT {PAGE_ROWS}")
}

/// The whole answer to a simple query.
pub fn answer(history: &History, server: usize, port: u16, sql: &[u8]) -> Vec<u8> {
    let sql = String::from_utf8_lossy(sql);
    let mut answer = Vec::new();
    // The probe puts settings before its first question.
    for statement in sql.split("; ") {
        answer.extend(execute(history, server, port, statement));
    }
    answer.extend(backend::ready_for_query(TransactionStatus::Idle));
    answer
}

fn execute(history: &History, server: usize, port: u16, sql: &str) -> Vec<u8> {
    if sql.starts_with("SET ") {
        return backend::command_complete("SET");
    }
    if let Some(id) = number_after(sql, INSERT) {
        return match history.write(server, id) {
            Some(()) => backend::command_complete("INSERT 0 1"),
            None => read_only(),
        };
    }
    if let Some(above) = number_after(sql, PAGE) {
        return show_page(history, server, above);
    }
    if sql == LOOK {
        let (rows, last) = history.read(server, |copy| {
            (copy.rows.len(), copy.rows.iter().max().copied())
        });
        let last = last.map(|last| last.to_string());
        let values = [Some(port.to_string()), Some(rows.to_string()), last];
        return table(&["port", "rows", "last"], &[values.to_vec()]);
    }
    if sql.contains("pg_is_in_recovery") {
        let facts = history.read(server, |copy| copy.facts());
        let (names, values): (Vec<_>, Vec<_>) = facts.into_iter().unzip();
        return table(&names, &[values]);
    }
    let words = "this server of the demo does not know that statement";
    ErrorResponse::error(SqlState::FEATURE_NOT_SUPPORTED, words).encode()
}

fn read_only() -> Vec<u8> {
    let words = "cannot execute INSERT in a read-only transaction";
    ErrorResponse::error(SqlState::READ_ONLY_SQL_TRANSACTION, words).encode()
}

fn show_page(history: &History, server: usize, above: u64) -> Vec<u8> {
    let mut ids = history.read(server, |copy| copy.rows.clone());
    ids.retain(|id| *id > above);
    ids.sort_unstable();
    let runs = ids.chunk_by(|one, next| one == next).take(PAGE_ROWS);
    let rows: Vec<_> = runs
        .map(|run| vec![Some(run[0].to_string()), Some(run.len().to_string())])
        .collect();
    table(&["id", "times"], &rows)
}

fn table(names: &[&str], rows: &[Vec<Option<String>>]) -> Vec<u8> {
    let mut answer = backend::row_description(names);
    for row in rows {
        let values: Vec<_> = row.iter().map(Option::as_deref).collect();
        answer.extend(backend::data_row(&values));
    }
    answer.extend(backend::command_complete(&format!("SELECT {}", rows.len())));
    answer
}

/// The number that follows this beginning of a statement.
fn number_after(sql: &str, beginning: &str) -> Option<u64> {
    let rest = sql.strip_prefix(beginning)?;
    let end = rest.find(|letter: char| !letter.is_ascii_digit());
    rest[..end.unwrap_or(rest.len())].parse().ok()
}
