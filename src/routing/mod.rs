//! The routing table and everything a routing decision reads.
//!
//! One immutable [`RoutingTable`] under one `ArcSwap`. A decision loads it
//! once; a relaying session keeps only its [`BackendHandle`].

mod balance;
mod group;
mod handle;
mod key;
mod latency;
mod room;
mod table;

pub use balance::Balancer;
pub use balance::Member;
pub use balance::Scale;
pub use balance::View;
pub use handle::BackendHandle;
pub use handle::ClusterHandle;
pub use handle::ConnectionGuard;
pub use handle::Fate;
pub use handle::ListenerHandle;
pub use key::KeySource;
pub use key::hash_key;
pub use room::Admission;
pub use room::Release;
pub use room::Ticket;
pub use room::WaitingRoom;
pub use table::BackendEntry;
pub use table::ClusterTable;
pub use table::ListenerEntry;
pub use table::PickError;
pub use table::PickRequest;
pub use table::RoutingTable;
pub use table::SharedTable;
