//! HTTP: routes each request, not each connection.
//!
//! hyper speaks HTTP/1.1 and HTTP/2 with clients; what it would read more leniently than the
//! RFCs allow is refused before it sees it ([`client_io`]). To backends it speaks HTTP/2, and
//! [`wire`] HTTP/1.1. A client's connection is served by [`serve`], one request by [`exchange`];
//! connections to backends are pooled by each worker.

mod access_log;
mod asking;
mod attempt;
mod back;
mod backend_io;
mod body;
mod client_io;
mod early;
mod exchange;
mod failure;
mod hedge;
mod lease;
mod link;
mod outcome;
mod outgoing;
mod pool;
mod prepare;
mod record;
mod refusal;
mod retries;
mod serve;
mod silence;
mod tunnel;
mod turn;
mod two;
mod upload;
mod upstream;
mod upstream_cell;
mod wire;

pub use access_log::AccessLogs;
pub use link::HttpClient;
pub use pool::Pool;
pub use serve::serve;
