//! One file per subcommand.

mod admin_client;
pub mod admin_state;
pub mod status;
