//! A hook that is a command: the event on its standard input, exit code 0 is success.

use std::process::ExitStatus;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::process::ChildStderr;
use tokio::process::Command;

use crate::control::hooks::Event;
use crate::control::hooks::HookError;
use crate::control::probe::Group;

/// What of its complaints goes into our log: a line or two.
const MAX_COMPLAINT_BYTES: usize = 512;
/// Its last words may still be in the pipe when it has ended.
const LAST_WORDS: Duration = Duration::from_millis(20);
/// For a process whose own environment has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs it to its end. Dropped before that, the command and all that it has started and not
/// set free is killed.
pub(super) async fn run(command: &[String], event: &Event) -> Result<(), HookError> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(HookError::Failed("the command is empty".to_owned()));
    };
    let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    let mut child = Command::new(program)
        .args(arguments)
        // Ours may hold passwords.
        .env_clear()
        .env("PATH", path)
        .env("EVERGATE_EVENT", event.event.as_str())
        .env("EVERGATE_CLUSTER", &*event.cluster)
        .env("EVERGATE_BACKEND", event.backend.as_deref().unwrap_or(""))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| HookError::failed("it cannot be started", error))?;
    let mut group = Group::of(child.id());
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read it may succeed all the same.
        let _ = stdin.write_all(event.json.as_bytes()).await;
    }
    let mut stderr = child.stderr.take();
    let mut complaint = Vec::new();
    let status = tokio::select! {
        status = child.wait() => status,
        never = listen(stderr.as_mut(), &mut complaint) => match never {},
    };
    let status = status.map_err(|error| HookError::failed("its end is unknown", error))?;
    group.forget();
    if status.success() {
        return Ok(());
    }
    let rest = listen(stderr.as_mut(), &mut complaint);
    let _ = tokio::time::timeout(LAST_WORDS, rest).await;
    Err(HookError::Failed(verdict(status, &complaint)))
}

/// Reads what it says, keeps the beginning, and never ends: a child may keep the pipe.
async fn listen(
    stderr: Option<&mut ChildStderr>,
    complaint: &mut Vec<u8>,
) -> std::convert::Infallible {
    if let Some(stderr) = stderr {
        let mut part = [0; 1024];
        while let Ok(count @ 1..) = stderr.read(&mut part).await {
            let room = MAX_COMPLAINT_BYTES.saturating_sub(complaint.len());
            complaint.extend_from_slice(&part[..count.min(room)]);
        }
    }
    std::future::pending().await
}

fn verdict(status: ExitStatus, complaint: &[u8]) -> String {
    let complaint = String::from_utf8_lossy(complaint);
    match complaint.trim() {
        "" => status.to_string(),
        complaint => format!("{status}: {complaint}"),
    }
}
