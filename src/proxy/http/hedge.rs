//! A second copy of a read that takes long; the first answer counts.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use http::Method;
use http::Request;
use http::Response;

use crate::cluster::BackendId;
use crate::config::HedgeConfig;
use crate::proxy::http::attempt::Attempt;
use crate::proxy::http::attempt::Failed;
use crate::proxy::http::attempt::Trail;
use crate::proxy::http::body::RequestBody;
use crate::proxy::http::body::Source;
use crate::proxy::http::exchange::Exchange;
use crate::proxy::http::prepare::Prepared;
use crate::proxy::http::retries;
use crate::proxy::http::retries::Retries;
use crate::proxy::seek::Seeker;
use crate::routing::ClusterTable;

/// When a second copy is sent, and the copy.
pub struct Plan {
    delay: Duration,
    copy: Box<Request<RequestBody>>,
}

pub fn config(cluster: &ClusterTable) -> Option<&HedgeConfig> {
    let http = cluster.config.http.as_deref()?;
    http.retry.hedge.as_ref()
}

/// Only reads without a body are hedged, and only they are measured for it.
pub fn is_read(request: &Request<RequestBody>) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD)
        && matches!(request.body(), RequestBody::Empty)
}

/// `None`: this request is sent once; too little may be known yet of how long reads take.
pub fn plan(
    prepared: &Prepared,
    cluster: &ClusterTable,
    request: &Request<RequestBody>,
) -> Option<Plan> {
    let config = config(cluster)?;
    if !is_read(request) || prepared.hop.upgrade.is_some() {
        return None;
    }
    let usual = cluster.handle.reads.quantile(config.percentile)?;
    Some(Plan {
        delay: usual.max(config.min_delay),
        copy: Box::new(retries::body_less(request)),
    })
}

/// What became of both.
pub struct Raced {
    pub attempted: Result<Response<Source>, Failed>,
    /// Of the second attempt, if there was one.
    pub second: Trail,
}

/// Waits for the first attempt, which asks `asked`; from the plan's delay on beside a second one at
/// another backend. The loser is dropped, which ends its exchange.
pub async fn race(
    exchange: &Exchange<'_>,
    first: impl Future<Output = Result<Response<Source>, Failed>>,
    (plan, asked): (Plan, BackendId),
) -> Raced {
    let started = Instant::now();
    let mut first = pin!(first);
    tokio::select! {
        biased;
        attempted = &mut first => return alone(attempted),
        () = tokio::time::sleep(plan.delay) => {}
    }
    let (link, prepared) = (exchange.link, exchange.prepared);
    let asking = exchange.asking();
    let cluster = prepared.cluster.clone();
    let mut seeker = Seeker::new(&asking, cluster, vec![asked], &link.shared);
    let Some(found) = seeker.at_once() else {
        return alone(first.await);
    };
    let handle = Arc::clone(&found.cluster.handle);
    let min_per_second = prepared.min_retries_per_second;
    if !handle.retries.take(min_per_second, link.shared.uptime()) {
        handle.http.count_retry_denied();
        return alone(first.await);
    }
    handle.http.count_hedge();
    let attempt = Attempt {
        found,
        request: plan.copy,
    };
    let mut none = Retries::none(prepared, link);
    let mut trail = Trail::default();
    let winner = {
        let mut second = pin!(exchange.attempt(&mut seeker, attempt, &mut none, &mut trail));
        tokio::select! {
            attempted = &mut first => match attempted {
                Ok(response) => Winner::First(Ok(response)),
                // The second is on its way already: no third yet.
                Err(failed) => match second.await {
                    Ok(response) => Winner::Second(response),
                    Err(_) => Winner::First(Err(failed)),
                },
            },
            attempted = &mut second => match attempted {
                Ok(response) => Winner::Second(response),
                Err(_) => Winner::First(first.await),
            },
        }
    };
    let attempted = match winner {
        Winner::Second(response) => {
            handle.http.count_hedge_won();
            // The first takes at least so long: else the slow ones would never be counted.
            handle.reads.record(started.elapsed());
            Ok(response)
        }
        Winner::First(attempted) => {
            trail.forget_backend();
            attempted
        }
    };
    Raced {
        attempted,
        second: trail,
    }
}

enum Winner {
    First(Result<Response<Source>, Failed>),
    Second(Response<Source>),
}

fn alone(attempted: Result<Response<Source>, Failed>) -> Raced {
    Raced {
        attempted,
        second: Trail::default(),
    }
}
