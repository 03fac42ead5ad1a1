//! What is counted and told of one exchange, from its head to the end of its answer.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use http::HeaderValue;
use http::Method;
use http::StatusCode;
use http::Uri;
use http::Version;
use http::header;
use http::request;

use crate::cluster::Cause;
use crate::cluster::StatusClass;
use crate::proxy::http::access_log::AccessLog;
use crate::proxy::http::access_log::Exchange;
use crate::proxy::http::link::InFlight;
use crate::proxy::http::link::Link;
use crate::proxy::http::upload::Upload;
use crate::routing::BackendHandle;
use crate::routing::ClusterHandle;

/// Counts and tells when it is dropped, however the exchange ended.
#[derive(Debug)]
pub struct Record {
    in_flight: InFlight,
    started: Instant,
    pub route: Option<usize>,
    cluster: Option<Arc<ClusterHandle>>,
    backend: Option<Arc<BackendHandle>>,
    status: Option<StatusCode>,
    first_byte: Option<Duration>,
    pub wait: Duration,
    pub connect: Duration,
    pub attempts: u32,
    pub sent_bytes: u64,
    cause: Option<Cause>,
    /// Only where there is an access log.
    told: Option<Box<Told>>,
}

/// What an access log tells beside.
#[derive(Debug)]
struct Told {
    log: Arc<AccessLog>,
    began: SystemTime,
    request_id: Option<HeaderValue>,
    client: std::net::SocketAddr,
    method: Method,
    host: Option<HeaderValue>,
    target: Uri,
    version: Version,
    user_agent: Option<HeaderValue>,
}

impl Record {
    /// Begins with the head of a request.
    pub fn new(in_flight: InFlight, head: &request::Parts) -> Self {
        let link = in_flight.link();
        let log = link.shared.access_logs.of(&link.cell.listener.name);
        let told = log.map(|log| {
            Box::new(Told {
                log,
                began: SystemTime::now(),
                request_id: None,
                client: link.origin.client,
                method: head.method.clone(),
                host: head.headers.get(header::HOST).cloned(),
                target: head.uri.clone(),
                version: head.version,
                user_agent: head.headers.get(header::USER_AGENT).cloned(),
            })
        });
        Self {
            in_flight,
            started: Instant::now(),
            route: None,
            cluster: None,
            backend: None,
            status: None,
            first_byte: None,
            wait: Duration::ZERO,
            connect: Duration::ZERO,
            attempts: 0,
            sent_bytes: 0,
            cause: None,
            told,
        }
    }

    pub fn link(&self) -> &Arc<Link> {
        self.in_flight.link()
    }

    /// How far the request's body has come.
    pub fn upload(&self) -> Arc<Upload> {
        Arc::clone(self.in_flight.upload())
    }

    pub fn set_cluster(&mut self, cluster: &Arc<ClusterHandle>) {
        if self.cluster.is_none() {
            cluster.http.begin();
            self.cluster = Some(Arc::clone(cluster));
        }
    }

    pub fn set_backend(&mut self, backend: &Arc<BackendHandle>) {
        self.backend = Some(Arc::clone(backend));
    }

    pub fn set_client(&mut self, client: std::net::SocketAddr, request_id: Option<&HeaderValue>) {
        if let Some(told) = &mut self.told {
            told.client = client;
            told.request_id = request_id.cloned();
        }
    }

    /// The answer's head is on its way.
    pub fn set_status(&mut self, status: StatusCode) {
        self.status = Some(status);
        self.first_byte = Some(self.started.elapsed());
    }

    /// The answer is our own, or is cut off. The first cause stays.
    pub fn set_cause(&mut self, cause: Cause) {
        self.cause.get_or_insert(cause);
    }

    /// The client does not get all of its answer.
    pub fn set_cut(&mut self) {
        let severed = self.link().cell.severed_cause();
        self.set_cause(severed.unwrap_or(Cause::Closed));
    }

    fn tell(&self, told: &Told, duration: Duration) {
        told.log.record(&Exchange {
            began: told.began,
            request_id: told.request_id.clone(),
            listener: self.in_flight.link().cell.listener.name.clone(),
            route: self.route,
            cluster: self.cluster.as_ref().map(|it| it.name.clone()),
            backend: self.backend.as_ref().map(|it| it.name.clone()),
            client: told.client,
            method: told.method.clone(),
            host: told.host.clone(),
            target: told.target.clone(),
            version: told.version,
            status: self.status,
            received_bytes: self.in_flight.upload().bytes(),
            sent_bytes: self.sent_bytes,
            duration,
            first_byte: self.first_byte,
            wait: self.wait,
            connect: self.connect,
            attempts: self.attempts,
            cause: self.cause,
            user_agent: told.user_agent.clone(),
        });
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let duration = self.started.elapsed();
        let link = self.in_flight.link();
        let class = StatusClass::of(self.status.map(|status| status.as_u16()));
        let name = self.cluster.as_ref().map(|cluster| &cluster.name);
        link.cell.listener.http.count_request(name, class);
        if let Some(cluster) = &self.cluster {
            cluster.http.end();
            let metrics = &link.shared.metrics;
            metrics.record_request_duration(&cluster.name, class, duration);
        }
        if let Some(told) = &self.told {
            self.tell(told, duration);
        }
    }
}
