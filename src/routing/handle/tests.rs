//! What is counted where, and which waiting rooms are kept.

use super::*;
use crate::cluster::WantedRole;
use crate::config::Fallback;
use crate::routing::room::Admission;

const WRITES: Intent = Intent {
    role: WantedRole::Primary,
    max_lag: None,
    fallback: Fallback::Nobody,
};

fn backend() -> Arc<BackendHandle> {
    let name = Name::from("db1");
    Arc::new(BackendHandle::new(BackendId(1), Name::from("a"), name))
}

#[test]
fn a_backend_counts_each_thing_by_itself() {
    let backend = backend();
    backend.count_bytes(5, 7);
    backend.count_bytes(10, 20);
    backend.count_check(true);
    backend.count_check(false);
    backend.count_check(false);
    backend.count_connected();
    assert_eq!((backend.received_bytes(), backend.sent_bytes()), (15, 27));
    assert_eq!(backend.checks(), (1, 2));
    assert_eq!(backend.total(), 1);
}

#[test]
fn a_failed_connect_is_counted_under_its_cause_or_as_an_error_of_io() {
    let backend = backend();
    backend.count_connect_error(Cause::Unreachable);
    backend.count_connect_error(Cause::Denied);
    let counted: Vec<_> = backend.connect_errors().filter(|it| it.1 > 0).collect();
    assert_eq!(counted, [(Cause::Unreachable, 1), (Cause::IoError, 1)]);
}

#[test]
fn at_another_address_the_totals_go_on_and_the_places_are_new() {
    let old = backend();
    let _session = old.acquire(None).unwrap();
    old.count_bytes(1, 2);
    let new = old.successor(BackendId(2));
    new.count_bytes(10, 20);
    assert_eq!((old.received_bytes(), old.sent_bytes()), (11, 22));
    assert_eq!((old.active(), new.active()), (1, 0));
}

#[test]
fn no_more_places_are_taken_than_there_are() {
    let backend = backend();
    let max = NonZeroU32::new(2);
    let first = backend.acquire(max).unwrap();
    let _second = backend.acquire(max).unwrap();
    assert!(backend.acquire(max).is_none());
    assert_eq!(backend.active(), 2);
    drop(first);
    assert!(backend.acquire(max).is_some());
}

#[test]
fn a_listener_counts_who_is_there_and_who_came() {
    let listener = ListenerHandle::new(Name::from("front"));
    assert_eq!(listener.open(), 1);
    assert_eq!(listener.open(), 2);
    listener.close();
    assert_eq!((listener.active(), listener.accepted()), (1, 2));
    listener.count_bytes(5, 7);
    listener.count_bytes(10, 20);
    assert_eq!((listener.received_bytes(), listener.sent_bytes()), (15, 27));
}

#[test]
fn a_rejection_is_counted_under_its_cause_only() {
    let listener = ListenerHandle::new(Name::from("front"));
    listener.count_rejected(Cause::NoRoute);
    listener.count_rejected(Cause::CheckPassed);
    let counted: Vec<_> = listener.rejected().filter(|it| it.1 > 0).collect();
    assert_eq!(counted, [(Cause::NoRoute, 1)]);
}

#[test]
fn rooms_of_intents_that_are_gone_are_kept_only_while_somebody_waits() {
    let cluster = ClusterHandle::new(Name::from("a"));
    cluster.prepare_holds(&[Intent::ANY, WRITES]);
    assert_eq!(cluster.holds().len(), 2);

    let waiting = cluster.hold(WRITES).enter(1);
    cluster.prepare_holds(&[Intent::ANY]);
    assert_eq!(cluster.held(), 1, "somebody still waits");

    drop(waiting);
    cluster.prepare_holds(&[Intent::ANY]);
    let kept: Vec<Intent> = cluster.holds().into_iter().map(|(it, _)| it).collect();
    assert_eq!(kept, [Intent::ANY]);
}

#[test]
fn a_dissolved_cluster_lets_everyone_go() {
    let cluster = ClusterHandle::new(Name::from("a"));
    let held = cluster.hold(WRITES).enter(1);
    let queued = cluster.queue(WantedRole::Primary).enter(1);
    assert!(matches!(held, Admission::Waiting(_)));
    assert!(matches!(queued, Admission::Waiting(_)));
    assert_eq!((cluster.held(), cluster.queued()), (1, 1));
    cluster.dissolve();
    assert_eq!((cluster.held(), cluster.queued()), (0, 0));
}

#[test]
fn a_free_place_lets_one_of_each_role_try() {
    let cluster = ClusterHandle::new(Name::from("a"));
    let tickets: Vec<_> = WantedRole::ALL
        .into_iter()
        .flat_map(|role| [cluster.queue(role).enter(2), cluster.queue(role).enter(2)])
        .collect();
    assert_eq!(cluster.queued(), 2 * WantedRole::ALL.len());
    cluster.release_queued();
    assert_eq!(cluster.queued(), WantedRole::ALL.len());
    drop(tickets);
    assert_eq!(cluster.queued(), 0);
}

#[test]
fn a_backend_that_refused_a_write_is_doubted_for_a_moment_and_not_again_at_once() {
    let handle = backend();
    let start = Instant::now();
    assert!(!handle.is_doubted(start));
    handle.doubt(start);
    assert!(handle.is_doubted(start));
    assert!(handle.is_doubted(start + DOUBT / 2));
    handle.doubt(start + DOUBT / 2);
    assert!(!handle.is_doubted(start + DOUBT));
    handle.doubt(start + DOUBT);
    assert!(!handle.is_doubted(start + DOUBT));
    handle.doubt(start + DOUBT_INTERVAL);
    assert!(handle.is_doubted(start + DOUBT_INTERVAL));
}
