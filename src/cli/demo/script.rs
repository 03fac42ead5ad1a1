//! The demo from its start to its end; the steps are in `steps.rs`.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use anyhow::bail;
use tokio::time::timeout;

use crate::cli::demo::BACKENDS;
use crate::cli::demo::account::Account;
use crate::cli::demo::backend::Backend;
use crate::cli::demo::backend::BackendThread;
use crate::cli::demo::backend::ReservedPort;
use crate::cli::demo::configuration;
use crate::cli::demo::configuration::Member;
use crate::cli::demo::configuration::Pace;
use crate::cli::demo::front::Front;
use crate::cli::demo::front::PATIENCE;
use crate::cli::demo::ledger::Ledger;
use crate::cli::demo::load;
use crate::cli::demo::load::Load;
use crate::cli::demo::measure::Counts;
use crate::cli::demo::measure::Measured;
use crate::cli::demo::measure::Phase;
use crate::cluster::Health;
use crate::config::DEFAULT_WEIGHT;
use crate::routing::ClusterTable;

/// Backends in the file at the start; the reload adds the last one.
const FIRST: usize = 3;

/// How often the script looks at the records.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// The whole cast.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) account: Account,
    pub(super) pace: Pace,
    pub(super) ledger: Arc<Ledger>,
    /// Before the backends' thread: clients and proxy end before what they talk to.
    pub(super) load: Load,
    pub(super) front: Front,
    /// Where clients connect.
    pub(super) entrance: ReservedPort,
    pub(super) backends: Vec<Backend>,
    pub(super) measured: Measured,
    phase: Phase,
    _thread: BackendThread,
}

/// Runs everything.
///
/// # Errors
/// What kept a step from being taken; broken promises are no errors, they are in the result.
pub async fn play(account: Account, pace: Pace) -> anyhow::Result<Measured> {
    let mut script = Script::start(account, pace).await?;
    script.dwell(10).await;
    script.summarise();
    script.kill().await;
    script.bring_back().await?;
    script.drain().await?;
    script.reload().await?;
    script.bad_file().await?;
    script.end().await
}

impl Script {
    async fn start(account: Account, pace: Pace) -> anyhow::Result<Self> {
        let thread = BackendThread::start().context("cannot start the backends")?;
        let mut backends = Vec::new();
        for name in BACKENDS {
            let backend = thread.backend(name);
            backends.push(backend.with_context(|| format!("cannot start {name}"))?);
        }
        let first = &backends[..FIRST];
        let listed: Vec<_> = first
            .iter()
            .map(|backend| format!("{} on {}", backend.name, backend.address()))
            .collect();
        account.say(
            Phase::Start,
            &format!("backends listen: {}", listed.join(", ")),
        );

        let entrance = ReservedPort::new().context("cannot reserve a port")?;
        let text = configuration::good(entrance.address, &members(first), &pace);
        let front = Front::start(&text, account.clock).await?;
        let file = front.file.display();
        account.say(
            Phase::Start,
            &format!(
                "evergate runs, clients connect to {}, file {file}",
                entrance.address
            ),
        );
        let all_up = |cluster: &ClusterTable| {
            let mut entries = cluster.backends.iter();
            entries.all(|entry| entry.health == Health::Up)
        };
        if front.seen(all_up).await.is_none() {
            bail!("the backends did not come up");
        }
        let generation = front.generation();
        account.say(
            Phase::Start,
            &format!("all backends are up in routing table {generation}"),
        );

        let ledger = Arc::new(Ledger::new(account.clock));
        let load = Load::start(entrance.address, pace.lifetime, Arc::clone(&ledger))
            .context("cannot start the load")?;
        let (kept, streams) = (load::KEPT_SESSIONS, load::SHORT_STREAMS);
        account.say(
            Phase::Start,
            &format!("load runs: {kept} sessions that stay, {streams} streams of short ones"),
        );
        Ok(Self {
            account,
            pace,
            ledger,
            load,
            front,
            entrance,
            backends,
            measured: Measured::default(),
            phase: Phase::Start,
            _thread: thread,
        })
    }

    /// Begins a step.
    pub(super) fn enter(&mut self, phase: Phase) {
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
        let until = self.pace.total * percent / 100;
        tokio::time::sleep(until.saturating_sub(self.now())).await;
    }

    /// Waits until the ledger has something; `None` when it has not in time.
    pub(super) async fn until<T>(
        &self,
        patience: Duration,
        found: impl Fn(&Ledger) -> Option<T>,
    ) -> Option<T> {
        let looking = async {
            loop {
                if let Some(found) = found(&self.ledger) {
                    return found;
                }
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        };
        timeout(patience, looking).await.ok()
    }

    /// Waits for the first session on a backend that began at `from` or later.
    pub(super) async fn first_session(
        &self,
        backend: &'static str,
        from: Duration,
    ) -> Option<Duration> {
        let found = |ledger: &Ledger| ledger.read(|records| records.first_session(backend, from));
        self.until(PATIENCE, found).await
    }

    /// Says how the step went for the clients.
    pub(super) fn summarise(&self) {
        let kill = self.measured.kill.as_ref();
        let counts = self.ledger.read(|records| records.counts(self.phase, kill));
        let Counts {
            requests,
            failed_requests,
            connections,
            failed_connections,
            cut,
        } = counts;
        let open: Vec<_> = BACKENDS
            .iter()
            .map(|name| (name, self.ledger.open_on(name)))
            .filter(|(_, sessions)| *sessions > 0)
            .map(|(name, sessions)| format!("{name} {sessions}"))
            .collect();
        let open = match open.as_slice() {
            [] => "none".to_owned(),
            open => open.join(", "),
        };
        self.say(&format!(
            "{requests} requests, {failed_requests} failed; {connections} new connections, \
             {failed_connections} failed; {cut} cut; open: {open}"
        ));
    }
}

/// The file's lines for these backends.
pub(super) fn members(backends: &[Backend]) -> Vec<Member> {
    let member = |backend: &Backend| Member {
        name: backend.name,
        address: backend.address(),
        weight: DEFAULT_WEIGHT,
    };
    backends.iter().map(member).collect()
}
