//! PostgreSQL listeners in session mode, with real servers and clients where they will do, and
//! with peers of our own where nobody real behaves like that.

mod cancel;
mod cancel_delivery;
mod cases;
mod endings;
mod evil;
mod explained;
mod guesses;
mod hashing;
mod refusals;
mod sessions;
mod tls;
mod wire;
