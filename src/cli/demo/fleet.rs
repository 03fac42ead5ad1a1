//! The demo's database servers: embedded ones or real ones. The story is the same.

use std::net::SocketAddr;

use anyhow::Context;

use crate::cli::demo::client::Client;
use crate::cli::demo::embedded::Embedded;
use crate::cli::demo::servers::Servers;
use crate::cli::demo::sql;

#[derive(Debug)]
pub enum Fleet {
    Embedded(Embedded),
    Real(Box<Servers>),
}

/// Which servers play.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cast {
    Embedded,
    Real,
}

impl Fleet {
    /// The first server is primary, the others follow it.
    pub async fn start(cast: Cast) -> anyhow::Result<Self> {
        Ok(match cast {
            Cast::Embedded => Self::Embedded(Embedded::start()?),
            Cast::Real => Self::Real(Box::new(Servers::start().await?)),
        })
    }

    pub fn address(&self, server: usize) -> SocketAddr {
        match self {
            Self::Embedded(fleet) => fleet.address(server),
            Self::Real(fleet) => fleet.address(server),
        }
    }

    /// What they are, for people.
    pub fn describe(&self) -> String {
        match self {
            Self::Embedded(_) => "embedded servers that speak PostgreSQL's protocol".to_owned(),
            Self::Real(fleet) => format!("PostgreSQL servers in {}", fleet.directory().display()),
        }
    }

    /// Ends it as a power cut does. Returns when nothing of it is left.
    pub async fn kill(&mut self, server: usize) -> anyhow::Result<()> {
        match self {
            Self::Embedded(fleet) => fleet.kill(server).await,
            Self::Real(fleet) => fleet.kill(server).await?,
        }
        Ok(())
    }

    /// Ends it in the orderly way: its replicas have everything.
    pub async fn shut_down(&mut self, server: usize) -> anyhow::Result<()> {
        match self {
            Self::Embedded(fleet) => fleet.shut_down(server).await,
            Self::Real(fleet) => fleet.shut_down(server).await?,
        }
        Ok(())
    }

    /// Returns when it can be written to.
    pub async fn promote(&mut self, server: usize) -> anyhow::Result<()> {
        match self {
            Self::Embedded(fleet) => fleet.promote(server),
            Self::Real(fleet) => fleet.promote(server).await?,
        }
        Ok(())
    }

    pub async fn follow(&mut self, server: usize, upstream: usize) -> anyhow::Result<()> {
        match self {
            Self::Embedded(fleet) => fleet.follow(server, upstream),
            Self::Real(fleet) => fleet.follow(server, upstream).await?,
        }
        Ok(())
    }

    /// Starts it as what it was.
    pub async fn start_again(&mut self, server: usize) -> anyhow::Result<()> {
        match self {
            Self::Embedded(fleet) => fleet.start_again(server)?,
            Self::Real(fleet) => fleet.start_again(server).await?,
        }
        Ok(())
    }

    /// Makes a former primary a replica and starts it.
    pub async fn rejoin(&mut self, server: usize, upstream: usize) -> anyhow::Result<()> {
        match self {
            Self::Embedded(fleet) => fleet.rejoin(server, upstream).await?,
            Self::Real(fleet) => fleet.rejoin(server, upstream).await?,
        }
        Ok(())
    }

    /// Every identifier that a server has, ascending, and how often.
    pub async fn rows(&self, server: usize) -> anyhow::Result<Vec<(u64, u64)>> {
        let mut client = Client::connect(self.address(server)).await?;
        let mut all: Vec<(u64, u64)> = Vec::new();
        loop {
            let above = all.last().map_or(0, |(id, _)| *id);
            let page = client.query(&sql::page(above)).await?;
            if page.rows().is_empty() {
                client.leave().await;
                return Ok(all);
            }
            for row in page.rows() {
                let number = |cell: &Option<String>| cell.as_ref()?.parse().ok();
                let numbers: Option<Vec<u64>> = row.iter().map(number).collect();
                match numbers.as_deref() {
                    Some([id, times]) => all.push((*id, *times)),
                    _ => anyhow::bail!("a row that is none"),
                }
            }
        }
    }

    /// How many rows a server has.
    pub async fn count(&self, server: usize) -> anyhow::Result<u64> {
        let mut client = Client::connect(self.address(server)).await?;
        let answer = client.query(sql::LOOK).await?;
        client.leave().await;
        let count = answer.first("rows").and_then(|rows| rows.parse().ok());
        count.context("no count of rows")
    }
}
