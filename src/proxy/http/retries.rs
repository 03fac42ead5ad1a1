//! When a request is sent once more, to another backend.

use std::time::Duration;

use http::Request;
use http::StatusCode;

use crate::proxy::http::body::RequestBody;
use crate::proxy::http::link::Link;
use crate::proxy::http::prepare::Prepared;
use crate::routing::ClusterHandle;
use crate::routing::ClusterTable;
use crate::routing::RetryReason;

/// How often a request may be sent again.
#[derive(Debug)]
pub struct Retries<'a> {
    prepared: &'a Prepared,
    link: &'a Link,
    left: u32,
}

impl<'a> Retries<'a> {
    pub fn new(prepared: &'a Prepared, request: &Request<RequestBody>, link: &'a Link) -> Self {
        // Only a request whose body can be had again.
        let left = match request.body() {
            RequestBody::Empty => prepared.retries,
            RequestBody::Client(_) => 0,
        };
        Self {
            prepared,
            link,
            left,
        }
    }

    /// Of a copy that is sent beside the first: if it fails, the first goes on.
    pub fn none(prepared: &'a Prepared, link: &'a Link) -> Self {
        Self {
            prepared,
            link,
            left: 0,
        }
    }

    /// How long an attempt may take while another backend may be asked.
    pub fn patience(&self, cluster: &ClusterTable) -> Option<Duration> {
        let timeout = self.prepared.attempt_timeout?;
        let may_follow = self.left > 0 && self.prepared.is_idempotent && self.has_other(cluster);
        may_follow.then_some(timeout)
    }

    /// Whether somebody is left beside those who were asked and the one who is being asked: the
    /// answer that may yet come is worth more than none.
    fn has_other(&self, cluster: &ClusterTable) -> bool {
        let asked = self.prepared.retries.saturating_sub(self.left) + 1;
        cluster.eligible_for(self.link.cell.intent) > asked as usize
    }

    /// After an attempt that had no effect: whether there is another one.
    pub fn after_refusal(&mut self) -> bool {
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }

    /// After an attempt that may have had an effect: whether there is another one.
    pub fn next(&mut self, cluster: &ClusterHandle) -> bool {
        if self.left == 0 || !self.prepared.is_idempotent {
            return false;
        }
        let min_per_second = self.prepared.min_retries_per_second;
        if !cluster
            .retries
            .take(min_per_second, self.link.shared.uptime())
        {
            cluster.http.count_retry_denied();
            return false;
        }
        self.after_refusal()
    }

    /// After an answer that is worth another attempt: the file says so, or the backend is not the
    /// one for this request and has not looked at it (RFC 9110, 15.5.20). Without another attempt
    /// the client gets it.
    pub fn after_answer(
        &mut self,
        cluster: &ClusterTable,
        status: StatusCode,
    ) -> Option<RetryReason> {
        let http = cluster.config.http.as_deref();
        let is_named = http.is_some_and(|http| http.retry.statuses.contains(&status.as_u16()));
        let is_misdirected = status == StatusCode::MISDIRECTED_REQUEST;
        if !(is_named || is_misdirected) || !self.has_other(cluster) {
            return None;
        }
        if is_misdirected {
            return self.after_refusal().then_some(RetryReason::Refused);
        }
        self.next(&cluster.handle).then_some(RetryReason::Status)
    }
}

/// The same head again.
pub fn head_of<T>(request: &Request<T>) -> Request<()> {
    let mut copy = Request::new(());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}

/// The same request, for which there is no body to send.
pub fn body_less<T>(request: &Request<T>) -> Request<RequestBody> {
    head_of(request).map(|()| RequestBody::Empty)
}
