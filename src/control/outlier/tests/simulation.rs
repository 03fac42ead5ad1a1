//! Random clusters, faults and settings: what must hold whatever happens.

use super::*;

const SEEDS: u64 = 60;
const STEPS: u32 = 400;
const STEP: Duration = Duration::from_millis(700);

struct Run {
    random: fastrand::Rng,
    config: OutlierConfig,
    outliers: Outliers,
    backends: Vec<Observed>,
    /// Share of the requests that fail, and the latency of the others.
    faults: Vec<(f64, Duration)>,
    now: Instant,
    ejections: usize,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let count = random.u64(1..=9);
        let observed = |id| Observed {
            id: BackendId(id),
            is_eligible: true,
            is_down: false,
            counted: Counted::default(),
        };
        let config = OutlierConfig {
            consecutive_5xx: random.u32(0..10),
            consecutive_gateway: random.u32(0..5),
            success_rate_factor: random.f64() * 3.0,
            latency_factor: random.f64() * 5.0,
            min_requests: random.u32(1..200),
            min_backends: random.usize(2..6),
            interval: SECOND * random.u32(1..10),
            base_ejection: SECOND * random.u32(1..30),
            max_ejection: SECOND * random.u32(1..120),
            max_ejected: random.f64(),
        };
        Self {
            random,
            config,
            outliers: Outliers::default(),
            backends: (0..count).map(observed).collect(),
            faults: vec![(0.0, SECOND / 100); count as usize],
            now: Instant::now(),
            ejections: 0,
        }
    }

    /// Something breaks, or is repaired.
    fn disturb(&mut self) {
        let at = self.random.usize(..self.backends.len());
        let backend = &mut self.backends[at];
        match self.random.u32(..6) {
            0 => self.faults[at] = (self.random.f64(), SECOND / 100),
            1 => self.faults[at] = (0.0, SECOND),
            2 => self.faults[at] = (0.0, SECOND / 100),
            3 => backend.counted.retry_after = Some(self.now + SECOND * self.random.u32(..300)),
            4 => (backend.is_eligible, backend.is_down) = (false, self.random.bool()),
            _ => (backend.is_eligible, backend.is_down) = (true, false),
        }
    }

    fn serve(&mut self) {
        for (backend, (rate, latency)) in self.backends.iter_mut().zip(&self.faults) {
            if self.outliers.ejection(backend.id).is_some() || !backend.is_eligible {
                continue;
            }
            for _ in 0..self.random.u32(..60) {
                let counted = &mut backend.counted;
                if self.random.f64() < *rate {
                    counted.failures += 1;
                    counted.consecutive_5xx += 1;
                    counted.consecutive_gateway += 1;
                } else {
                    counted.successes += 1;
                    counted.latency += *latency;
                    (counted.consecutive_5xx, counted.consecutive_gateway) = (0, 0);
                }
            }
        }
    }

    fn judge(&mut self) {
        let verdicts = self
            .outliers
            .judge(Some(&self.config), &self.backends, self.now);
        for verdict in verdicts {
            if verdict.ejection.is_some() {
                self.ejections += 1;
                self.check_ejection(verdict);
            } else {
                let counted = &mut self.backends[verdict.id.0 as usize].counted;
                (counted.consecutive_5xx, counted.consecutive_gateway) = (0, 0);
                counted.retry_after = None;
            }
        }
        self.check();
    }

    /// One at a time may be followed by others: what holds at its end holds for each.
    fn check_ejection(&self, verdict: Verdict) {
        let until = verdict.ejection.map(|it| it.until);
        assert!(until <= Some(self.now + self.config.max_ejection));
        let is_left = |it: &&Observed| {
            it.is_eligible && it.id != verdict.id && self.outliers.ejection(it.id).is_none()
        };
        assert!(
            self.backends.iter().any(|it| is_left(&it)),
            "nobody is left"
        );
    }

    fn check(&self) {
        let ejections = self
            .backends
            .iter()
            .filter_map(|it| self.outliers.ejection(it.id));
        let ejections: Vec<_> = ejections.collect();
        let share = self.config.max_ejected * self.backends.len() as f64;
        assert!(ejections.len() <= 1 || ejections.len() as f64 <= share + 1e-6);
        assert!(ejections.len() < self.backends.len(), "never all");
        assert!(ejections.iter().all(|it| it.until > self.now), "in time");
        let due = self.outliers.next_due();
        assert!(due.is_some_and(|due| due > self.now && due <= self.now + self.config.interval));
    }

    /// All is repaired: soon nobody is ejected any more, and it stays like that.
    fn recover(&mut self) {
        for (backend, fault) in self.backends.iter_mut().zip(&mut self.faults) {
            (backend.is_eligible, backend.is_down) = (true, false);
            backend.counted.retry_after = None;
            (
                backend.counted.consecutive_5xx,
                backend.counted.consecutive_gateway,
            ) = (0, 0);
            *fault = (0.0, SECOND / 100);
        }
        // What the interval before has counted may still eject somebody once.
        let end = self.now + self.config.max_ejection + self.config.interval * 2;
        while self.now < end {
            self.now += STEP;
            self.serve();
            self.judge();
        }
        let before = self.ejections;
        for _ in 0..100 {
            self.now += STEP;
            self.serve();
            self.judge();
            let is_ejected = |it: &Observed| self.outliers.ejection(it.id).is_some();
            assert!(!self.backends.iter().any(is_ejected), "healthy and ejected");
        }
        assert_eq!(self.ejections, before);
    }
}

#[test]
fn whatever_fails_some_are_left_and_all_return_when_it_is_over() {
    let mut ejections = 0;
    for seed in 0..SEEDS {
        // Names the seed when an assertion fails.
        let _seed = Named(seed);
        let mut run = Run::new(seed);
        for _ in 0..STEPS {
            run.now += STEP;
            if run.random.u32(..5) == 0 {
                run.disturb();
            }
            run.serve();
            run.judge();
        }
        run.recover();
        ejections += run.ejections;
    }
    assert!(ejections > 300, "{ejections} ejections prove little");
}

struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}", self.0);
        }
    }
}
