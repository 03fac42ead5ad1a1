//! The steps of the script: each does one thing to the backends or the proxy, waits for what it
//! should cause, and writes down what was measured.

use std::time::Duration;

use crate::cli::demo::account::shown;
use crate::cli::demo::configuration;
use crate::cli::demo::front;
use crate::cli::demo::front::PATIENCE;
use crate::cli::demo::measure::BadFile;
use crate::cli::demo::measure::Drain;
use crate::cli::demo::measure::End;
use crate::cli::demo::measure::Kill;
use crate::cli::demo::measure::Measured;
use crate::cli::demo::measure::Phase;
use crate::cli::demo::measure::Reload;
use crate::cli::demo::measure::Return;
use crate::cli::demo::script::Script;
use crate::cli::demo::script::members;
use crate::cli::demo::verdict::since;
use crate::cluster::AdminState;
use crate::cluster::Health;
use crate::config::ClusterConfig;
use crate::config::DEFAULT_WEIGHT;
use crate::routing::BackendEntry;

/// Who plays which part.
const REWEIGHTED: usize = 0;
const KILLED: usize = 1;
const DRAINED: usize = 2;
const ADDED: usize = 3;

impl Script {
    pub async fn kill(&mut self) {
        self.enter(Phase::Kill);
        let backend = self.backends[KILLED].name;
        let clock = self.ledger.clock;
        let sessions = self.ledger.open_on(backend);
        let began = clock.now();
        let killing = async {
            self.backends[KILLED].kill().await;
            clock.now()
        };
        let (done, detected) = tokio::join!(killing, self.front.became(backend, Health::Down));
        let kill = Kill {
            backend,
            sessions,
            began,
            done,
            detected,
        };
        self.measured.kill = Some(kill);
        self.say(&format!(
            "{backend} killed: listener closed, its {sessions} live sessions reset"
        ));
        let took = after(began, detected);
        let cause = self.cause(backend);
        let table = self.front.generation();
        self.say(&format!(
            "{backend} seen as down ({cause}) {took}, routing table {table}"
        ));

        let recovered = self.until(PATIENCE, |ledger| {
            let none_left = ledger.open_on(backend) == 0;
            ledger.read(|records| records.recovered(&kill).filter(|_| none_left))
        });
        let recovered = recovered.await;
        let cut = self.ledger.read(|records| {
            let failures = records.failures.iter();
            failures.filter(|failure| kill.explains(failure)).count()
        });
        let took = after(began, recovered);
        self.say(&format!(
            "{cut} sessions cut; the last of those that stay had a good answer elsewhere {took}"
        ));
        self.dwell(28).await;
        self.summarise();
    }

    pub async fn bring_back(&mut self) -> anyhow::Result<()> {
        self.enter(Phase::Return);
        let backend = self.backends[KILLED].name;
        let began = self.now();
        self.backends[KILLED].start()?;
        self.say(&format!("{backend} listens again on its old port"));
        let up = self.front.became(backend, Health::Up).await;
        let took = after(began, up);
        self.say(&format!("{backend} seen as up {took} (rise: 2 checks)"));
        let first_session = self.first_session(backend, began).await;
        let took = after(began, first_session);
        self.say(&format!("{backend} got its first new session {took}"));
        self.measured.back = Some(Return {
            began,
            up,
            first_session,
        });
        if let Some(up) = up {
            self.warm_up(backend, up).await;
        }
        self.dwell(50).await;
        self.summarise();
        Ok(())
    }

    /// Shows the slow start in the shares of new sessions.
    async fn warm_up(&self, backend: &str, up: Duration) {
        let half = self.pace.slow_start / 2;
        let warm = up + 2 * half;
        let end = warm + half;
        tokio::time::sleep(end.saturating_sub(self.now())).await;
        let share = |from, to| {
            let (own, all) = self.ledger.read(|records| records.share(backend, from, to));
            let percent = 100 * own / all.max(1);
            format!("{own} of {all} ({percent} %)")
        };
        self.say(&format!(
            "slow start of {}: {backend} got {} new sessions in its first half, {} in its second, \
             {} after it",
            shown(2 * half),
            share(up, up + half),
            share(up + half, warm),
            share(warm, end),
        ));
    }

    pub async fn drain(&mut self) -> anyhow::Result<()> {
        self.enter(Phase::Drain);
        let backend = self.backends[DRAINED].name;
        let sessions = self.ledger.open_on(backend);
        let began = self.now();
        let state = self.front.set_admin_state(backend, AdminState::Drain);
        state.await?;
        let in_force = self.now();
        let took = after(began, Some(in_force));
        self.say(&format!(
            "{backend} drained by command, in force {took}; it has {sessions} sessions"
        ));
        let emptied = self.until(self.pace.lifetime + PATIENCE, |ledger| {
            (ledger.open_on(backend) == 0).then(|| ledger.clock.now())
        });
        let emptied = emptied.await;
        let took = after(began, emptied);
        self.say(&format!("the last session on {backend} had ended {took}"));
        self.dwell(65).await;

        let over = self.now();
        let state = self.front.set_admin_state(backend, AdminState::Ready);
        state.await?;
        let first_session = self.first_session(backend, over).await;
        let drain = Drain {
            backend,
            began,
            in_force,
            emptied,
            over,
            first_session,
        };
        self.measured.drain = Some(drain);
        let late = self.ledger.read(|records| drain.late_sessions(records));
        let took = after(over, first_session);
        self.say(&format!(
            "{backend} got {late} new sessions while drained; made ready, its first came {took}"
        ));
        self.dwell(70).await;
        self.summarise();
        Ok(())
    }

    pub async fn reload(&mut self) -> anyhow::Result<()> {
        self.enter(Phase::Reload);
        let added = self.backends[ADDED].name;
        let reweighted = self.backends[REWEIGHTED].name;
        let generation = self.front.generation();
        let began = self.now();
        self.front.write(&self.changed_file())?;
        self.say(&format!(
            "file replaced: {added} added, weight of {reweighted} halved"
        ));
        let is_in_force = |cluster: &_| front::entry(cluster, added).is_some();
        let in_force = self.front.seen(is_in_force).await;
        let result = match self.front.reloaded().await {
            Some(Ok(())) => "reloaded",
            Some(Err(error)) => {
                self.account.quote(&error);
                "refused"
            }
            None => "not reloaded",
        };
        let took = after(began, in_force);
        let table = self.front.generation();
        self.say(&format!(
            "{result}, in force {took}: routing table {generation} became {table}"
        ));
        let first_session = self.first_session(added, began).await;
        let took = after(began, first_session);
        self.say(&format!("{added} got its first session {took}"));
        self.measured.reload = Some(Reload {
            began,
            in_force,
            first_session,
        });
        self.dwell(80).await;
        Ok(())
    }

    pub async fn bad_file(&mut self) -> anyhow::Result<()> {
        let before = (self.front.config().await?, self.members_in_force());
        self.front
            .write(&configuration::bad(&self.changed_file()))?;
        self.say("file replaced by a bad one");
        let result = self.front.reloaded().await;
        let refused = matches!(result, Some(Err(_)));
        match result {
            Some(Err(error)) => {
                self.say("refused, with every error at once:");
                self.account.quote(&error);
            }
            Some(Ok(())) => self.say("the bad file is in force"),
            None => self.say("nobody noticed it"),
        }
        self.dwell(90).await;
        let after = (self.front.config().await?, self.members_in_force());
        let mut changed = Vec::new();
        if before.0 != after.0 {
            changed.push("the configuration");
        }
        if before.1 != after.1 {
            changed.push("the routing table");
        }
        self.say(&match changed.as_slice() {
            [] => "configuration and routing table are as before".to_owned(),
            changed => format!("changed: {}", changed.join(", ")),
        });
        self.measured.bad_file = Some(BadFile { refused, changed });
        self.summarise();
        Ok(())
    }

    pub async fn end(mut self) -> anyhow::Result<Measured> {
        self.enter(Phase::End);
        let stopped = tokio::time::timeout(PATIENCE, self.load.stop_connecting());
        let stopped = stopped.await.is_ok();
        let sessions = self.ledger.open();
        let began = self.now();
        self.say(&format!(
            "evergate drains as on SIGTERM, {sessions} sessions are in the middle of their work"
        ));
        let patience = self.pace.lifetime + PATIENCE;
        let severed = self.front.drain(patience).await?;
        let done = self.now();
        let finished = tokio::time::timeout(PATIENCE, self.load.finished()).await;
        let load_finished = stopped && finished.unwrap_or(false);
        let took = after(began, Some(done));
        self.say(&format!("all sessions had ended {took}, {severed} severed"));
        self.summarise();
        self.measured.end = Some(End {
            severed,
            load_finished,
        });
        self.measured.records = self.ledger.read(Clone::clone);
        self.front.stop().await?;
        Ok(self.measured)
    }

    /// The good file of the reload.
    fn changed_file(&self) -> String {
        let mut members = members(&self.backends);
        members[REWEIGHTED].weight = DEFAULT_WEIGHT / 2;
        configuration::good(self.entrance.address, &members, &self.pace)
    }

    /// What the routing table has of the file.
    fn members_in_force(&self) -> Option<ClusterConfig> {
        self.front.cluster(|cluster| (*cluster.config).clone())
    }

    fn cause(&self, backend: &str) -> &'static str {
        let cause = |entry: &BackendEntry| entry.cause.as_str();
        let cause = self
            .front
            .cluster(|cluster| front::entry(cluster, backend).map(cause));
        cause.flatten().unwrap_or("unknown")
    }
}

/// "after 3 ms", or that it did not happen.
fn after(began: Duration, at: Option<Duration>) -> String {
    match since(began, at) {
        Some(took) => format!("after {}", shown(took)),
        None => format!("NOT within {}", shown(PATIENCE)),
    }
}
