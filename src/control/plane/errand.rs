//! One probe's task: it asks, then watches over what is left of it.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;
use tokio::sync::mpsc;

use crate::control::core::Order;
use crate::control::plane::Event;
use crate::control::probe;
use crate::control::probe::Leftover;
use crate::control::probe::Recall;
use crate::control::probe::Rest;
use crate::control::probe::Resting;

/// Probes; then closes what is left of it, or watches it until it is called back.
pub(super) async fn run_probe(
    order: Order,
    recall: Option<Recall>,
    commands: &Semaphore,
    permit: OwnedSemaphorePermit,
    answer: mpsc::Sender<Event>,
) {
    let target = order.target;
    let link = match recall {
        Some(recall) => recall.take(&target).await,
        None => None,
    };
    let outcome = probe::probe(&target, order.address, link, commands).await;
    let (resting, recall) = match outcome.leftover {
        Leftover::Kept(link) => {
            let (recall, recalled) = probe::recall();
            let target = Arc::clone(&target);
            (Ok((Resting { link, target }, recalled)), Some(recall))
        }
        leftover => (Err(leftover), None),
    };
    let event = Event::Probed {
        id: order.id,
        number: order.number,
        target,
        observation: outcome.observation,
        complaint: outcome.complaint,
        recall,
    };
    // Fails only when the plane has ended.
    let _ = answer.send(event).await;
    match resting {
        Ok((resting, recalled)) => {
            // A link that rests is no probe under way.
            drop(permit);
            if let Rest::Disturbed { cause, link } = resting.rest(recalled).await {
                let id = order.id;
                let _ = answer.send(Event::Disturbed { id, cause }).await;
                link.close().await;
            }
        }
        Err(leftover) => leftover.close().await,
    }
}
