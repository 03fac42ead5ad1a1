//! PostgreSQL with streaming replication behind Evergate, without anybody who automates its
//! failover: the test is the DBA who promotes.

mod checks;
mod clients;
mod death;
mod demotion;
mod fence;
mod lag;
mod policies;
mod stage;
mod stops;
mod waiting;
