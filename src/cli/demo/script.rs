//! The demo from its start to its end; the steps are in `steps.rs`.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use anyhow::bail;
use tokio::time::timeout;

use crate::cli::demo::MEMBERS;
use crate::cli::demo::NAMES;
use crate::cli::demo::account::Account;
use crate::cli::demo::configuration;
use crate::cli::demo::configuration::Entrances;
use crate::cli::demo::configuration::Member;
use crate::cli::demo::configuration::Pace;
use crate::cli::demo::fleet::Cast;
use crate::cli::demo::fleet::Fleet;
use crate::cli::demo::front;
use crate::cli::demo::front::Front;
use crate::cli::demo::ledger::Ledger;
use crate::cli::demo::ledger::Phase;
use crate::cli::demo::load;
use crate::cli::demo::load::Habits;
use crate::cli::demo::load::Load;
use crate::cli::demo::port::ReservedPort;
use crate::cli::demo::verdict::Measured;
use crate::cluster::Role;
use crate::config::DEFAULT_WEIGHT;

/// How often the script looks at the records.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// The whole cast.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) account: Account,
    pub(super) pace: Pace,
    pub(super) ledger: Arc<Ledger>,
    /// Before the fleet: clients and proxy end before what they talk to.
    pub(super) load: Load,
    pub(super) front: Front,
    pub(super) fleet: Fleet,
    pub(super) measured: Measured,
    ports: [ReservedPort; 2],
    phase: Phase,
    /// When the load began: the pace counts from here.
    began: Duration,
}

/// Runs everything.
///
/// # Errors
/// What kept a step from being taken; broken promises are no errors, they are in the result.
pub async fn play(account: Account, pace: Pace, cast: Cast) -> anyhow::Result<Measured> {
    let mut script = Script::start(account, pace, cast).await?;
    script.dwell(12).await;
    let promoted = script.fail_over().await?;
    script.return_first(promoted).await?;
    script.switch_over(promoted).await?;
    script.drain().await?;
    script.reload().await?;
    script.end().await
}

impl Script {
    async fn start(account: Account, pace: Pace, cast: Cast) -> anyhow::Result<Self> {
        if cast == Cast::Real {
            account.say(
                Phase::Start,
                "PostgreSQL: initdb, a primary, two base backups",
            );
        }
        let fleet = Fleet::start(cast).await.context("no database servers")?;
        let listed: Vec<_> = members(&fleet, DEFAULT_WEIGHT)
            .iter()
            .map(|member| format!("{} on {}", member.name, member.address))
            .collect();
        let what = fleet.describe();
        account.say(Phase::Start, &format!("{what}: {}", listed.join(", ")));

        let reserve = || ReservedPort::new().context("cannot reserve a port");
        let ports = [reserve()?, reserve()?];
        let [write, read] = [ports[0].address, ports[1].address];
        let text = configuration::good(Entrances { write, read }, &members(&fleet, DEFAULT_WEIGHT));
        let front = Front::start(&text, account.clock).await?;
        let file = front.file.display();
        account.say(
            Phase::Start,
            &format!("evergate runs: write port {write}, read port {read}, file {file}"),
        );
        for (server, name) in NAMES.into_iter().enumerate() {
            let role = if server == 0 {
                Role::Primary
            } else {
                Role::Replica
            };
            if front.plays(name, role).await.is_none() {
                bail!("{name} was not found to be {}", role.as_str());
            }
        }
        account.say(
            Phase::Start,
            &format!(
                "evergate found out: {} is primary, the others replicas",
                NAMES[0]
            ),
        );

        let ledger = Arc::new(Ledger::new(account.clock));
        let habits = Habits {
            write,
            read,
            think_time: pace.think_time,
            lifetime: pace.lifetime,
        };
        let load = Load::start(habits, Arc::clone(&ledger)).context("cannot start the load")?;
        let (writers, readers) = (load::WRITERS, load::READERS);
        account.say(
            Phase::Start,
            &format!("load runs: {writers} writers of unique rows, {readers} readers"),
        );
        Ok(Self {
            account,
            pace,
            began: ledger.clock.now(),
            ledger,
            load,
            front,
            fleet,
            measured: Measured::default(),
            ports,
            phase: Phase::Start,
        })
    }

    /// Begins a step.
    pub(super) fn enter(&mut self, phase: Phase) {
        self.summarise();
        self.phase = phase;
        self.ledger.set_phase(phase);
    }

    pub(super) fn say(&self, what: &str) {
        self.account.say(self.phase, what);
    }

    pub(super) fn now(&self) -> Duration {
        self.ledger.clock.now()
    }

    /// Lets the load run until this part of the whole time is over.
    pub(super) async fn dwell(&self, percent: u32) {
        let until = self.began + self.pace.total * percent / 100;
        tokio::time::sleep(until.saturating_sub(self.now())).await;
    }

    /// Waits until the ledger has something; `None` when it has not in time.
    pub(super) async fn until<T>(&self, found: impl Fn(&Ledger) -> Option<T>) -> Option<T> {
        let looking = async {
            loop {
                if let Some(found) = found(&self.ledger) {
                    return found;
                }
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        };
        timeout(front::PATIENCE, looking).await.ok()
    }

    /// Waits until a replica has everything that its upstream has now.
    pub(super) async fn catch_up(&self, server: usize, upstream: usize) -> anyhow::Result<()> {
        let target = self.fleet.count(upstream).await?;
        let catching_up = async {
            while self.fleet.count(server).await? < target {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
            anyhow::Ok(())
        };
        let caught_up = timeout(front::PATIENCE, catching_up).await;
        caught_up.with_context(|| format!("{} does not catch up", NAMES[server]))?
    }

    /// The file, with another weight for the last replica.
    pub(super) fn file(&self, weight: u32) -> String {
        let [write, read] = [self.ports[0].address, self.ports[1].address];
        configuration::good(Entrances { write, read }, &members(&self.fleet, weight))
    }

    /// Says how the step went for the clients.
    pub(super) fn summarise(&self) {
        let (counts, failures) = self.ledger.read(|records| {
            let failures = records.failures.iter();
            let own = failures.filter(|failure| failure.phase == self.phase);
            (records.counts[self.phase as usize], own.count())
        });
        self.say(&format!(
            "clients: {} writes acknowledged, {} reads, {} new sessions; {failures} cut or failed",
            counts.writes, counts.reads, counts.connections
        ));
    }
}

/// The file's backends; `weight` is the last one's.
fn members(fleet: &Fleet, weight: u32) -> Vec<Member> {
    let member = |server: usize| Member {
        name: NAMES[server],
        address: fleet.address(server),
        weight: if server + 1 == MEMBERS {
            weight
        } else {
            DEFAULT_WEIGHT
        },
    };
    (0..MEMBERS).map(member).collect()
}
