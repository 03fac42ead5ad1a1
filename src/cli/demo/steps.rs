//! The steps of the script: each does one thing to the servers or the proxy, waits for what it
//! should cause, and writes down what was measured.

use std::time::Duration;

use tokio::time::timeout;

use crate::cli::demo::NAMES;
use crate::cli::demo::account::shown;
use crate::cli::demo::configuration;
use crate::cli::demo::front;
use crate::cli::demo::front::PATIENCE;
use crate::cli::demo::ledger::Ledger;
use crate::cli::demo::ledger::Phase;
use crate::cli::demo::script::Script;
use crate::cli::demo::verdict::Drain;
use crate::cli::demo::verdict::End;
use crate::cli::demo::verdict::Measured;
use crate::cli::demo::verdict::Outage;
use crate::cli::demo::verdict::Reload;
use crate::cli::demo::verdict::Return;
use crate::cluster::AdminState;
use crate::cluster::Health;
use crate::cluster::Role;
use crate::config::DEFAULT_WEIGHT;

/// The primary at the beginning, and again after the switchover.
const FIRST: usize = 0;

impl Script {
    /// The primary dies, a replica is promoted. Returns which.
    pub async fn fail_over(&mut self) -> anyhow::Result<usize> {
        self.enter(Phase::Kill);
        let clock = self.ledger.clock;
        let name = NAMES[FIRST];
        let began = clock.now();
        let killing = async {
            self.fleet.kill(FIRST).await?;
            anyhow::Ok(clock.now())
        };
        let (done, detected) = tokio::join!(killing, self.front.became(name, Health::Down));
        let done = done?;
        self.say(&format!(
            "the primary {name} was killed: its sessions are cut"
        ));
        let took = after(began, detected);
        self.say(&format!(
            "evergate sees {name} down {took}; writers are held"
        ));
        self.dwell(20).await;

        // As Patroni does, or a careful person: whoever has the most.
        let (second, third) = (self.fleet.count(1).await?, self.fleet.count(2).await?);
        let (promoted, other) = if third > second { (2, 1) } else { (1, 2) };
        self.fleet.promote(promoted).await?;
        let at = clock.now();
        self.fleet.follow(other, promoted).await?;
        let new = NAMES[promoted];
        let took = after(began, Some(at));
        self.say(&format!(
            "{new} promoted {took}; {} follows it",
            NAMES[other]
        ));
        let outage = Outage {
            phase: Phase::Kill,
            began,
            done,
            detected,
            promoted: at,
            seen: None,
            first_write: None,
        };
        self.resume(outage, promoted).await;
        self.dwell(33).await;
        Ok(promoted)
    }

    /// Waits for writes on the new primary.
    async fn resume(&mut self, mut outage: Outage, promoted: usize) {
        let name = NAMES[promoted];
        outage.seen = self.front.plays(name, Role::Primary).await;
        let found = |ledger: &Ledger| ledger.read(|records| records.first_write(outage.promoted));
        outage.first_write = self.until(found).await;
        let at = outage.promoted;
        let (seen, write) = (after(at, outage.seen), after(at, outage.first_write));
        self.say(&format!(
            "after the promotion: seen as primary {seen}, first write acknowledged {write}"
        ));
        self.measured.outages.push(outage);
    }

    /// The old primary comes back as what it was, and becomes a replica later.
    pub async fn return_first(&mut self, promoted: usize) -> anyhow::Result<()> {
        self.enter(Phase::Return);
        let name = NAMES[FIRST];
        let began = self.now();
        self.fleet.start_again(FIRST).await?;
        let rows: Vec<_> = self.fleet.rows(FIRST).await?;
        self.say(&format!(
            "{name} is back on its old timeline, says that it is primary, and would take writes"
        ));
        let fenced = self.front.plays(name, Role::Fenced).await;
        let took = after(began, fenced);
        let cause = self.role_cause(name);
        self.say(&format!(
            "{name} fenced ({cause}) {took}; writes go on elsewhere"
        ));
        self.dwell(46).await;
        let rows_written = self.fleet.rows(FIRST).await?.len();
        let more = rows_written.saturating_sub(rows.len());
        self.say(&format!("{name} was sent {more} writes meanwhile"));
        self.measured.back = Some(Return {
            fenced,
            rows: rows.into_iter().map(|(id, _)| id).collect(),
            rows_written,
        });
        self.fleet.rejoin(FIRST, promoted).await?;
        let replica = self.front.plays(name, Role::Replica).await;
        let took = after(began, replica);
        let new = NAMES[promoted];
        self.say(&format!(
            "{name} rewound, follows {new}, seen as replica {took}"
        ));
        self.catch_up(FIRST, promoted).await?;
        self.dwell(55).await;
        Ok(())
    }

    /// A planned change of the primary, back to the first.
    pub async fn switch_over(&mut self, old: usize) -> anyhow::Result<()> {
        self.enter(Phase::Switch);
        let clock = self.ledger.clock;
        let (name, new) = (NAMES[old], NAMES[FIRST]);
        let began = clock.now();
        let stopping = async {
            self.fleet.shut_down(old).await?;
            anyhow::Ok(clock.now())
        };
        let (done, detected) = tokio::join!(stopping, self.front.became(name, Health::Down));
        let done = done?;
        self.say(&format!(
            "{name} shut down for a planned switchover; writers are held"
        ));
        self.fleet.promote(FIRST).await?;
        let promoted = clock.now();
        let others = (1..NAMES.len()).filter(|server| *server != old);
        for other in others {
            self.fleet.follow(other, FIRST).await?;
        }
        let took = after(began, Some(promoted));
        self.say(&format!("{new} promoted {took}"));
        let outage = Outage {
            phase: Phase::Switch,
            began,
            done,
            detected,
            promoted,
            seen: None,
            first_write: None,
        };
        self.resume(outage, FIRST).await;
        self.fleet.rejoin(old, FIRST).await?;
        let replica = self.front.plays(name, Role::Replica).await;
        let took = after(began, replica);
        self.say(&format!("{name} is a replica of {new} now, seen {took}"));
        self.dwell(72).await;
        Ok(())
    }

    pub async fn drain(&mut self) -> anyhow::Result<()> {
        self.enter(Phase::Drain);
        let drained = NAMES.len() - 1;
        let name = NAMES[drained];
        self.front.set_admin_state(name, AdminState::Drain).await?;
        let in_force = self.now();
        self.say(&format!(
            "replica {name} drained by command: its sessions may finish"
        ));
        self.dwell(82).await;
        let drain = Drain {
            port: self.fleet.address(drained).port(),
            in_force,
            over: self.now(),
        };
        self.front.set_admin_state(name, AdminState::Ready).await?;
        let late = self.ledger.read(|records| drain.late_sessions(records));
        self.say(&format!(
            "{name} got {late} new sessions while drained; ready again"
        ));
        self.measured.drain = Some(drain);
        Ok(())
    }

    /// A good file, and a bad one.
    pub async fn reload(&mut self) -> anyhow::Result<()> {
        self.enter(Phase::Reload);
        let name = NAMES[NAMES.len() - 1];
        let weight = DEFAULT_WEIGHT / 2;
        let began = self.now();
        self.front.write(&self.file(weight))?;
        let has_weight = |cluster: &_| {
            front::entry(cluster, name).is_some_and(|entry| entry.config.weight == weight)
        };
        let in_force = self.front.seen(has_weight).await;
        let result = self.front.reloaded().await;
        let took = after(began, in_force);
        self.say(&format!(
            "file replaced, weight of {name} halved: in force {took}"
        ));
        let before = self.front.config().await?;
        self.dwell(90).await;
        self.front.write(&configuration::bad(&self.file(weight)))?;
        let refused = self.front.reloaded().await;
        match &refused {
            Some(Err(error)) => {
                self.say("file replaced by a bad one: refused, with every error at once:");
                self.account.quote(error);
            }
            Some(Ok(())) => self.say("file replaced by a bad one: it is in force"),
            None => self.say("file replaced by a bad one: nobody noticed"),
        }
        let is_unchanged = self.front.config().await? == before;
        self.measured.reload = Some(Reload {
            is_in_force: in_force.is_some() && matches!(result, Some(Ok(()))),
            is_bad_refused: matches!(refused, Some(Err(_))) && is_unchanged,
        });
        self.dwell(97).await;
        Ok(())
    }

    pub async fn end(mut self) -> anyhow::Result<Measured> {
        self.enter(Phase::End);
        self.load.wind_down();
        let load_finished = timeout(PATIENCE, self.load.finished()).await;
        let load_finished = load_finished.unwrap_or(false);
        let severed = self.front.drain(PATIENCE).await?;
        self.say(&format!(
            "clients have left; evergate drained, {severed} sessions severed"
        ));
        self.measured.rows = self.fleet.rows(FIRST).await?.into_iter().collect();
        let rows = self.measured.rows.len();
        self.say(&format!(
            "every row on {} read and compared: {rows}",
            NAMES[FIRST]
        ));
        self.measured.end = Some(End {
            severed,
            load_finished,
        });
        self.measured.records = self.ledger.read(Clone::clone);
        self.front.stop().await?;
        Ok(self.measured)
    }

    fn role_cause(&self, backend: &str) -> &'static str {
        let cause = self.front.cluster(|cluster| {
            front::entry(cluster, backend).map(|entry| entry.role_cause.as_str())
        });
        cause.flatten().unwrap_or("unknown")
    }
}

/// "after 3 ms", or that it did not happen.
fn after(began: Duration, at: Option<Duration>) -> String {
    match at {
        Some(at) => format!("after {}", shown(at.saturating_sub(began))),
        None => format!("NOT within {}", shown(PATIENCE)),
    }
}
