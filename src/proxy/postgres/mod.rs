//! PostgreSQL in session mode: greet, choose, cancel, follow, refuse. Everything between the
//! StartupMessage and the end is relayed as it is, but for the secret of the cancel key.

mod cancel;
mod door;
mod follow;
mod greet;
mod guess;
mod refuse;
mod startup;

pub use cancel::CancelErrand;
pub use cancel::CancelKeys;
pub use door::DoorRefusals;
pub use follow::Follow;
pub use greet::greet;
pub use greet::parameter;
pub use refuse::refusal;
pub use startup::ask_for_tls;
pub use startup::first_answer;
