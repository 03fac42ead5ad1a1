//! The routing table and everything a routing decision reads.
//!
//! One immutable [`RoutingTable`] under one `ArcSwap`. A decision loads it
//! once; a relaying session keeps only its [`BackendHandle`].

mod balance;
mod entry;
mod explain;
mod fate;
mod group;
mod handle;
mod key;
mod lag;
mod latency;
mod outcome;
mod room;
mod route;
mod table;
mod tally;

pub use balance::Balancer;
pub use balance::Member;
pub use balance::Scale;
pub use balance::View;
pub use entry::BackendEntry;
pub use entry::Ejection;
pub use entry::Exclusion;
pub use explain::Explanation;
pub use explain::Key;
pub use explain::Standing;
pub use fate::Fate;
pub use fate::Fates;
pub use handle::BackendHandle;
pub use handle::ClusterHandle;
pub use handle::ConnectionGuard;
pub use handle::ListenerHandle;
pub use key::KeySource;
pub use key::LoginKeys;
pub use key::hash_key;
pub use lag::Lag;
pub use outcome::Answer;
pub use outcome::Counted;
pub use outcome::Outcome;
pub use outcome::Outcomes;
pub use room::Admission;
pub use room::Release;
pub use room::Ticket;
pub use room::WaitingRoom;
pub use route::Routed;
pub use route::Wish;
pub use route::permits;
pub use route::route;
pub use table::ClusterTable;
pub use table::ListenerEntry;
pub use table::PickError;
pub use table::PickRequest;
pub use table::RoutingTable;
pub use table::SharedTable;
pub use tally::Counts;
pub use tally::Mark;
pub use tally::Tally;
