//! Connect and finish a TLS handshake with the cluster's settings.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpStream;
use tokio::time::Instant;

use super::Target;
use super::cause_of;
use super::connect;
use super::within;
use crate::cluster::Cause;
use crate::config::CheckKind;
use crate::tls::BackendTls;

pub(super) async fn ask(
    target: &Target,
    address: SocketAddr,
    deadline: Instant,
) -> Result<BackendTls, Cause> {
    if target.tls.is_none() {
        return Err(Cause::TlsFailed);
    }
    let stream = connect(target, address, deadline).await?;
    let handshake = handshake(target, address, stream);
    within(deadline, Cause::CheckTimeout, handshake).await
}

/// The handshake alone. The caller limits its time.
pub(super) async fn handshake(
    target: &Target,
    address: SocketAddr,
    stream: TcpStream,
) -> Result<BackendTls, Cause> {
    let Some(connector) = &target.tls else {
        return Err(Cause::TlsFailed);
    };
    let backend = &target.backend;
    let handshake = match target.cluster.health_check.kind {
        CheckKind::Http(_) => connector.connect_http1(backend, address, stream).await,
        _ => connector.connect(backend, address, stream).await,
    };
    handshake.map_err(|error| handshake_cause(&error))
}

/// A reset stays a reset; whatever else goes wrong in a handshake is TLS.
fn handshake_cause(error: &io::Error) -> Cause {
    match cause_of(error) {
        cause @ (Cause::Reset | Cause::OutOfResources) => cause,
        _ => Cause::TlsFailed,
    }
}
