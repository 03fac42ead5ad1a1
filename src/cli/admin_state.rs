//! `evergate drain`, `ready` and `maintenance`: take a backend out and back in.

use std::str::FromStr;

use clap::Args;

use crate::cli;
use crate::cli::admin_client::AdminArgs;
use crate::cluster::AdminState;

/// The backend to change
#[derive(Debug, Args)]
pub struct AdminStateArgs {
    /// As in `evergate status`: the cluster's name, a slash, the backend's name
    #[arg(value_name = "CLUSTER/BACKEND")]
    target: Target,
    #[command(flatten)]
    admin: AdminArgs,
}

/// A cluster's and a backend's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub cluster: String,
    pub backend: String,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((cluster, backend)) if !cluster.is_empty() && !backend.is_empty() => Ok(Self {
                cluster: cluster.to_owned(),
                backend: backend.to_owned(),
            }),
            _ => Err("expected CLUSTER/BACKEND, for example orders/pg1".to_owned()),
        }
    }
}

impl Target {
    /// Of the change that `verb` names, in the admin API.
    pub fn path(&self, verb: &str) -> String {
        let (cluster, backend) = (encode(&self.cluster), encode(&self.backend));
        format!("/api/v1/clusters/{cluster}/backends/{backend}/{verb}")
    }
}

/// Sets the admin state of one backend.
///
/// # Errors
/// When the process cannot be reached, refuses, or knows no such backend.
pub fn run(args: &AdminStateArgs, state: AdminState) -> anyhow::Result<()> {
    let Target { cluster, backend } = &args.target;
    args.admin.post(&args.target.path(state.as_str()))?;
    cli::print(&format!("{cluster}/{backend} is now {}\n", state.as_str()))
}

/// Percent-encodes everything but RFC 3986's unreserved characters.
pub fn encode(name: &str) -> String {
    let encoded = name.bytes().map(|byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            char::from(byte).to_string()
        } else {
            format!("%{byte:02X}")
        }
    });
    encoded.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_has_two_names() {
        let target: Target = "orders/pg1.internal:5432".parse().unwrap();
        assert_eq!(target.cluster, "orders");
        assert_eq!(target.backend, "pg1.internal:5432");
        for wrong in ["", "orders", "/pg1", "orders/"] {
            assert!(wrong.parse::<Target>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_are_safe_in_a_path() {
        assert_eq!(encode("pg1.internal:5432"), "pg1.internal%3A5432");
        assert_eq!(encode("a/b c"), "a%2Fb%20c");
    }
}
