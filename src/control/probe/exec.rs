//! Run a command; exit code 0 is a pass.

use std::io;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process_group;
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::Target;
use super::cause_of;
use super::within;
use crate::cluster::Cause;

/// Commands that run at once: each is a process, and a slow one must not fill the machine.
pub const MAX_COMMANDS: usize = 16;

pub(super) async fn ask(
    target: &Target,
    command: &[String],
    address: SocketAddr,
    timeout: Duration,
    permits: &Semaphore,
) -> Result<(), Cause> {
    // Waiting for our own limit is not the backend's time.
    let _permit = permits.acquire().await.map_err(|_| Cause::OutOfResources)?;
    let deadline = Instant::now() + timeout;
    let Some((program, arguments)) = command.split_first() else {
        return Err(Cause::CommandFailed);
    };
    let mut child = Command::new(program)
        .args(arguments)
        .env("EVERGATE_ADDRESS", address.ip().to_string())
        .env("EVERGATE_PORT", address.port().to_string())
        .env("EVERGATE_CLUSTER", &*target.cluster.name)
        .env("EVERGATE_BACKEND", &*target.backend.name)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // A group of its own, so that what it starts ends with it.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| spawn_cause(&error))?;
    let mut group = Group::of(child.id());
    let status = within(deadline, Cause::CheckTimeout, async {
        child.wait().await.map_err(|error| cause_of(&error))
    })
    .await?;
    group.forget();
    if status.success() {
        Ok(())
    } else {
        Err(Cause::CommandFailed)
    }
}

/// A process group that is killed when whoever started it ends early, in whatever way.
#[derive(Debug)]
pub struct Group(Option<Pid>);

impl Group {
    /// The group of a child that leads one.
    pub fn of(leader: Option<u32>) -> Self {
        let leader = leader.and_then(|id| i32::try_from(id).ok());
        Self(leader.and_then(Pid::from_raw))
    }

    /// The leader has ended: its number may soon be somebody else's.
    pub fn forget(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // Fails only when nobody is left.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

fn spawn_cause(error: &io::Error) -> Cause {
    match cause_of(error) {
        Cause::OutOfResources => Cause::OutOfResources,
        _ => Cause::CommandFailed,
    }
}
