//! A real etcd of a test's own: the place where Patroni's nodes agree on a leader.

use std::net::SocketAddr;
use std::ops::Deref;
use std::process::Output;

use tempfile::TempDir;

use super::PATIENCE;
use super::ports::free_addr;
use super::process::installed;
use super::process::output_of;
use super::process::words;
use super::slot::Slot;
use super::wait_until;

/// One member: stopped or frozen, it is what a cluster without a quorum is.
pub struct Etcd {
    addr: SocketAddr,
    peer: SocketAddr,
    slot: Slot,
    dir: TempDir,
}

impl Etcd {
    #[track_caller]
    pub fn start() -> Self {
        let etcd = Self {
            addr: free_addr(),
            peer: free_addr(),
            slot: Slot::default(),
            dir: tempfile::Builder::new()
                .prefix("evergate-etcd-")
                .tempdir()
                .unwrap(),
        };
        etcd.start_again();
        etcd
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Starts on the same port and data, and waits until it is healthy.
    #[track_caller]
    pub fn start_again(&self) {
        let (client, peer) = (
            format!("http://{}", self.addr),
            format!("http://{}", self.peer),
        );
        let data = self.dir.path().join("data").display().to_string();
        let mut command = vec![installed("etcd", "etcd-server")];
        command.extend(words(&["--name", "e", "--data-dir", &data]));
        command.extend(words(&["--listen-client-urls", &client]));
        command.extend(words(&["--advertise-client-urls", &client]));
        command.extend(words(&["--listen-peer-urls", &peer]));
        command.extend(words(&["--initial-advertise-peer-urls", &peer]));
        command.extend(words(&["--initial-cluster", &format!("e={peer}")]));
        command.extend(words(&[
            "--heartbeat-interval=50",
            "--election-timeout=250",
        ]));
        self.slot.start(&command, self.dir.path());
        wait_until(PATIENCE, "etcd is healthy", || {
            self.etcdctl(&["endpoint", "health"]).status.success()
        });
    }

    /// Nobody says goodbye.
    pub fn stop(&self) {
        self.slot.kill_9();
    }

    pub fn etcdctl(&self, arguments: &[&str]) -> Output {
        let etcdctl = installed("etcdctl", "etcd-client");
        let endpoint = format!("--endpoints=http://{}", self.addr);
        let patience = ["--dial-timeout=1s", "--command-timeout=2s"];
        let command = [&[etcdctl.as_str(), &endpoint], &patience[..], arguments].concat();
        output_of(&command, &[("ETCDCTL_API", "3".to_owned())])
    }

    /// What the holder's silence would do after its time: its keys are gone.
    #[track_caller]
    pub fn expire_the_lease_of(&self, key: &str) {
        let output = self.etcdctl(&["get", key, "--write-out=fields"]);
        let fields = String::from_utf8_lossy(&output.stdout).into_owned();
        let lease = fields
            .lines()
            .find_map(|line| line.strip_prefix("\"Lease\" : "));
        let lease: u64 = lease
            .unwrap_or_else(|| panic!("{key}: {fields}"))
            .parse()
            .unwrap();
        let revoked = self.etcdctl(&["lease", "revoke", &format!("{lease:x}")]);
        assert!(revoked.status.success(), "{revoked:?}");
    }
}

impl Deref for Etcd {
    type Target = Slot;

    fn deref(&self) -> &Slot {
        &self.slot
    }
}
