//! PostgreSQL with streaming replication behind Evergate, without anybody who automates its
//! failover: the test is the DBA who promotes.

mod cancels;
mod checks;
mod clients;
mod death;
mod demotion;
mod disk;
mod explained;
mod fence;
mod four;
mod lag;
mod lagging;
mod partitions;
mod policies;
mod raw;
mod scram;
mod stage;
mod stops;
mod streams;
mod waiting;
