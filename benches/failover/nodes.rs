//! What every stack has to know of a cluster.

use std::net::SocketAddr;

use crate::support::patroni::PatroniCluster;

/// One database server, and who tells its role by the status of `/primary` and `/replica`.
#[derive(Debug, Clone)]
pub struct Node {
    pub name: String,
    pub addr: SocketAddr,
    pub role: SocketAddr,
}

/// The nodes of one cluster as the stacks are configured with them.
#[derive(Debug, Clone)]
pub struct Nodes {
    pub list: Vec<Node>,
    pub authority: Authority,
}

/// Who else than the servers knows the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authority {
    /// The port of its REST API, on every node's address.
    Patroni {
        port: u16,
    },
    Nobody,
}

/// What clients come for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    Write,
    Read,
}

impl Nodes {
    pub fn of(cluster: &PatroniCluster) -> Self {
        let node = |node: &crate::support::patroni::PatroniNode| Node {
            name: node.name().to_owned(),
            addr: node.addr(),
            role: node.rest(),
        };
        Self {
            list: cluster.nodes().iter().map(node).collect(),
            authority: Authority::Patroni {
                port: cluster.node(0).rest().port(),
            },
        }
    }

    pub fn addrs(&self) -> Vec<SocketAddr> {
        self.list.iter().map(|node| node.addr).collect()
    }
}

impl Intent {
    /// Where a node says 200 when it is fit for it.
    pub fn path(self) -> &'static str {
        match self {
            Self::Write => "/primary",
            Self::Read => "/replica",
        }
    }

    /// Evergate's word.
    pub fn role(self) -> &'static str {
        match self {
            Self::Write => "primary",
            Self::Read => "replica",
        }
    }
}
