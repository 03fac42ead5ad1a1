//! `evergate switchover`: the operator decides who is primary.

use clap::Args;

use crate::cli;
use crate::cli::admin_client::AdminArgs;
use crate::cli::admin_state::Target;

/// The primary to write to
#[derive(Debug, Args)]
pub struct SwitchoverArgs {
    /// As in `evergate status`: the cluster's name, a slash, the backend's name. It has to be
    /// a primary that takes writes already: promote it first
    #[arg(value_name = "CLUSTER/BACKEND")]
    target: Target,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Decides for one of several primaries.
///
/// # Errors
/// When the process cannot be reached, refuses, or the backend cannot be the primary.
pub fn run(args: &SwitchoverArgs) -> anyhow::Result<()> {
    args.admin.post(&args.target.path("switchover"))?;
    let Target { cluster, backend } = &args.target;
    cli::print(&format!(
        "{cluster} is written to at {backend} from now on\n"
    ))
}
