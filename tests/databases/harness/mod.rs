//! The harness itself: a fault that is not injected proves nothing.

mod checker;
mod mariadb;
mod patroni;
mod postgres;
mod sentinel;
