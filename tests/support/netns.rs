//! A network of its own for one server, joined to ours by a cable that can be cut and damaged.
//!
//! Rules live inside the namespace, so that a crash leaves nothing behind in the host's tables.

use std::net::IpAddr;
use std::net::Ipv4Addr;

use super::ports::reserve;
use super::process::is_root;
use super::process::output_of;
use super::process::run;
use super::process::words;

/// Where a server runs: what to put before its command, and the address it serves on.
#[derive(Debug, Clone)]
pub struct Place {
    pub prefix: Vec<String>,
    pub ip: IpAddr,
}

impl Place {
    pub fn host() -> Self {
        Self {
            prefix: Vec::new(),
            ip: Ipv4Addr::LOCALHOST.into(),
        }
    }
}

#[derive(Debug)]
pub struct Netns {
    name: String,
    /// The host's end of the cable.
    link: String,
    host_ip: Ipv4Addr,
    ip: Ipv4Addr,
}

impl Netns {
    #[track_caller]
    pub fn new() -> Self {
        assert!(
            is_root(),
            "network namespaces need root: run the tests as root"
        );
        // Four addresses each: 10.213.0.0/16 holds 16,384 of them.
        let number = reserve("netns", 0..16_384);
        let base = u32::from(Ipv4Addr::new(10, 213, 0, 0)) + number * 4;
        let netns = Self {
            name: format!("evg{number}"),
            link: format!("evg{number}h"),
            host_ip: Ipv4Addr::from(base + 1),
            ip: Ipv4Addr::from(base + 2),
        };
        // A killed test binary may have left one of this number; nobody else owns it now.
        netns.delete();
        netns.build();
        netns
    }

    fn build(&self) {
        let (name, link) = (self.name.as_str(), self.link.as_str());
        run(&["ip", "netns", "add", name]);
        let inside = ["type", "veth", "peer", "name", "eth0", "netns", name];
        run(&[&["ip", "link", "add", link], &inside[..]].concat());
        let host_ip = format!("{}/30", self.host_ip);
        run(&["ip", "address", "add", &host_ip, "dev", link]);
        run(&["ip", "link", "set", link, "up"]);
        let ip = format!("{}/30", self.ip);
        self.run(&["ip", "address", "add", &ip, "dev", "eth0"]);
        self.run(&["ip", "link", "set", "lo", "up"]);
        self.run(&["ip", "link", "set", "eth0", "up"]);
        let via = self.host_ip.to_string();
        self.run(&["ip", "route", "add", "default", "via", &via]);
    }

    pub fn ip(&self) -> Ipv4Addr {
        self.ip
    }

    pub fn host_ip(&self) -> Ipv4Addr {
        self.host_ip
    }

    /// Lets those inside reach other namespaces that call this too, through the host.
    pub fn forward(&self) {
        let file = format!("/proc/sys/net/ipv4/conf/{}/forwarding", self.link);
        std::fs::write(&file, "1").unwrap_or_else(|error| panic!("{file}: {error}"));
    }

    /// Servers start here.
    pub fn place(&self) -> Place {
        Place {
            prefix: words(&["ip", "netns", "exec", &self.name]),
            ip: self.ip.into(),
        }
    }

    /// Runs a short program inside.
    #[track_caller]
    pub fn run(&self, command: &[&str]) -> String {
        run(&[&["ip", "netns", "exec", &self.name], command].concat())
    }

    /// Drops what arrives: the world is silent for those inside.
    pub fn drop_incoming(&self) {
        self.rule("input", "iifname eth0 drop");
    }

    /// Drops what leaves: those inside are silent for the world.
    pub fn drop_outgoing(&self) {
        self.rule("output", "oifname eth0 drop");
    }

    /// Drops what comes from and goes to this address: all others are there.
    pub fn cut_off_from(&self, other: Ipv4Addr) {
        self.rule("input", &format!("ip saddr {other} drop"));
        self.rule("output", &format!("ip daddr {other} drop"));
    }

    /// Answers every segment to this port with a reset, on established connections too.
    pub fn reset_port(&self, port: u16) {
        self.rule("input", &format!("tcp dport {port} reject with tcp reset"));
    }

    /// Loses new connections to this port; established ones go on.
    pub fn drop_new_connections(&self, port: u16) {
        let rule = format!("tcp dport {port} tcp flags & (syn|ack) == syn drop");
        self.rule("input", &rule);
    }

    /// Loses this share of the packets in both directions.
    pub fn lose(&self, percent: u32) {
        let rule = format!("numgen random mod 100 < {percent} drop");
        self.rule("input", &format!("iifname eth0 {rule}"));
        self.rule("output", &format!("oifname eth0 {rule}"));
    }

    /// Limits what leaves the namespace.
    pub fn limit_rate(&self, rate: &str) {
        let tbf = ["tbf", "rate", rate, "burst", "16kb", "latency", "50ms"];
        self.run(&[&["tc", "qdisc", "replace", "dev", "eth0", "root"], &tbf[..]].concat());
    }

    /// Removes every rule.
    pub fn heal(&self) {
        self.run(&["nft", "flush", "ruleset"]);
    }

    pub fn pull_cable(&self) {
        run(&["ip", "link", "set", &self.link, "down"]);
    }

    pub fn plug_cable(&self) {
        run(&["ip", "link", "set", &self.link, "up"]);
    }

    #[track_caller]
    fn rule(&self, chain: &str, rule: &str) {
        let hook = format!("{{ type filter hook {chain} priority 0; }}");
        let script = format!(
            "add table inet faults\n\
             add chain inet faults {chain} {hook}\n\
             add rule inet faults {chain} {rule}\n"
        );
        self.run(&["nft", &script]);
    }

    fn delete(&self) {
        // Either may not exist.
        output_of(&["ip", "link", "delete", &self.link], &[]);
        output_of(&["ip", "netns", "delete", &self.name], &[]);
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        self.delete();
    }
}
