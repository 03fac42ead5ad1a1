//! What a reload changes while sessions live, wait and come: all that it says, and nothing else.

use std::fs;
use std::io::Write;
use std::net::Shutdown;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::PATIENCE;
use crate::support::SetWhenDropped;
use crate::support::Watchdog;
use crate::support::backend::Backend;
use crate::support::backend::Behaviour;
use crate::support::evergate::Evergate;
use crate::support::evergate::Until;
use crate::support::ports::RefusingPort;
use crate::support::ports::free_addr;
use crate::support::stream::Pattern;
use crate::support::stream::expect_pattern;
use crate::support::talk::connect;
use crate::support::talk::echoes;
use crate::support::talk::file;
use crate::support::talk::greeted;
use crate::support::talk::name_at;
use crate::support::talk::plain;
use crate::support::talk::read_line;
use crate::support::talk::rest;
use crate::support::talk::wait_for_name;
use crate::support::wait_until;

const LIMIT: Duration = Duration::from_secs(60);

/// Opens sessions at these addresses until told to stop; each must be greeted with one of `names`.
fn hammer(addresses: &[SocketAddr], names: &[&str], stop: &AtomicBool) -> Result<usize, String> {
    let mut done = 0;
    while !stop.load(Ordering::Relaxed) {
        for address in addresses {
            let name = greeted(*address).map_err(|error| format!("session {done}: {error}"));
            let (_, name) = name?;
            if !names.contains(&name.as_str()) {
                return Err(format!("session {done}: {name:?}"));
            }
            done += 1;
        }
    }
    Ok(done)
}

/// C7
#[test]
fn a_listener_with_a_new_name_on_its_old_address_loses_no_session() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (a, echo, listens, other) = (
        Backend::named("a"),
        Backend::echo(),
        free_addr(),
        free_addr(),
    );
    let yaml = |name: &str| {
        let clusters = file(listens, &plain(&[a.addr()]), &[]);
        let named = clusters.replace("  l: {", &format!("  {name}: {{"));
        let echo = format!("  e:\n    backends: [\"{}\"]\nlisteners:", echo.addr());
        named.replace("listeners:", &echo)
            + &format!("  echo-{name}: {{bind: \"{other}\", cluster: e}}\ndrain_timeout: 200ms\n")
    };
    let evergate = Evergate::start(&yaml("l"));
    let mut session = connect(other);
    echoes(&mut session, b"before").unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let end = SetWhenDropped(&stop);
        let clients: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| hammer(&[listens], &["a"], &stop)))
            .collect();
        for turn in 0..30 {
            evergate.reload(&yaml(["m", "l"][turn % 2]));
            echoes(&mut session, b"still here").unwrap();
        }
        drop(end);
        for client in clients {
            let done = client.join().unwrap();
            assert!(done.as_ref().is_ok_and(|done| *done > 0), "{done:?}");
        }
    });
    // Longer than a removed listener's sessions would have had.
    thread::sleep(Duration::from_secs(1));
    echoes(&mut session, b"not removed, only renamed").unwrap();
}

/// C7
#[test]
fn two_listeners_swap_their_addresses_and_lose_no_session() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let (one, two) = (free_addr(), free_addr());
    let yaml = |of_a: SocketAddr, of_b: SocketAddr| {
        format!(
            "clusters:\n  a: {{backends: [\"{}\"]}}\n  b: {{backends: [\"{}\"]}}\nlisteners:\n  \
             a: {{bind: \"{of_a}\", cluster: a}}\n  b: {{bind: \"{of_b}\", cluster: b}}\n",
            a.addr(),
            b.addr()
        )
    };
    let evergate = Evergate::start(&yaml(one, two));
    assert_eq!((name_at(one), name_at(two)), ("a".into(), "b".into()));
    let (mut session, _) = greeted(one).unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let end = SetWhenDropped(&stop);
        let client = scope.spawn(|| hammer(&[one, two], &["a", "b"], &stop));
        for turn in 0..31 {
            let (of_a, of_b) = if turn % 2 == 0 {
                (two, one)
            } else {
                (one, two)
            };
            evergate.reload(&yaml(of_a, of_b));
        }
        drop(end);
        let done = client.join().unwrap();
        assert!(done.as_ref().is_ok_and(|done| *done > 0), "{done:?}");
    });
    assert_eq!((name_at(one), name_at(two)), ("b".into(), "a".into()));
    session.write_all(b"still here").unwrap();
    session.shutdown(Shutdown::Write).unwrap();
    assert!(rest(&mut session).is_empty());
}

/// Issue, part 5: hot swap
#[test]
fn counters_survive_reloads_and_sessions_of_unchanged_clusters_never_notice() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (echo, other, listens) = (Backend::echo(), Backend::echo(), free_addr());
    let yaml = |weight: usize, backends: &str| {
        let keys = format!("weight: {weight}");
        let file = file(listens, &[(echo.addr(), &keys)], &[]);
        let changing = format!("  changing: {{backends: [{backends}]}}\nlisteners:");
        file.replace("listeners:", &changing)
    };
    let other = format!("\"{}\"", other.addr());
    let evergate = Evergate::start(&yaml(100, &other));
    let mut session = connect(listens);
    echoes(&mut session, b"once").unwrap();
    for turn in 1..6 {
        echoes(&mut connect(listens), b"again").unwrap();
        let more = format!("{other}, \"127.0.0.1:{turn}\"");
        evergate.reload(&yaml(100 + turn, &more));
        echoes(&mut session, b"once").unwrap();
    }
    let backend = [("cluster", "c"), ("backend", "a")];
    for (name, labels, expected) in [
        (
            "evergate_listener_connections_total",
            &[("listener", "l")][..],
            6.0,
        ),
        ("evergate_backend_connections_total", &backend[..], 6.0),
        ("evergate_backend_weight", &backend[..], 105.0),
    ] {
        assert_eq!(evergate.metric(name, labels), Some(expected), "{name}");
    }
    let bytes = "evergate_listener_bytes_received_total";
    evergate.wait_for_metric(bytes, &[("listener", "l")], 6.0 * 4.0 + 5.0 * 5.0);
}

/// C6: queued sessions move
#[test]
fn a_held_session_goes_to_the_backend_that_a_reload_brings() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (down, a, listens) = (RefusingPort::new(), Backend::named("a"), free_addr());
    let yaml = |backend: SocketAddr| {
        let hold = "failover: {hold: {for: 1m, max_sessions: 10}}";
        file(listens, &plain(&[backend]), &[hold])
    };
    let evergate = Evergate::with(&yaml(down.addr()))
        .until(Until::Alive)
        .start();
    let mut held = connect(listens);
    evergate.wait_for_metric("evergate_cluster_held_sessions", &[("cluster", "c")], 1.0);
    evergate.write_file(&yaml(a.addr()));
    assert_eq!(read_line(&mut held).unwrap(), "a");
}

/// C6: queued sessions move
#[test]
fn a_queued_session_goes_to_the_room_that_a_reload_brings() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (a, b, listens) = (Backend::named("a"), Backend::named("b"), free_addr());
    let queue = "failover: {queue: {for: 1m, max_sessions: 10}}";
    let one = |more: &[(SocketAddr, &str)], room: &str| {
        let backends = [&[(a.addr(), room)], more].concat();
        file(listens, &backends, &[queue])
    };
    let evergate = Evergate::start(&one(&[], "max_connections: 1"));
    let (_first, name) = greeted(listens).unwrap();
    assert_eq!(name, "a");
    let queued = || {
        let session = connect(listens);
        evergate.wait_for_metric("evergate_cluster_queued_sessions", &[("cluster", "c")], 1.0);
        session
    };
    let mut second = queued();
    evergate.write_file(&one(
        &[(b.addr(), "max_connections: 1")],
        "max_connections: 1",
    ));
    assert_eq!(read_line(&mut second).unwrap(), "b");
    let mut third = queued();
    evergate.write_file(&one(
        &[(b.addr(), "max_connections: 1")],
        "max_connections: 2",
    ));
    assert_eq!(read_line(&mut third).unwrap(), "a");
}

/// Issue, part 5: admin state is not configuration
#[test]
fn a_drained_backend_stays_drained_across_reloads() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (a, b, listens, admin) = (
        Backend::named("a"),
        Backend::named("b"),
        free_addr(),
        free_addr(),
    );
    let keys = format!("admin: {{bind: \"{admin}\", token_file: token}}\n");
    let yaml = |weight: u32| {
        let weight = format!("weight: {weight}");
        file(listens, &[(a.addr(), weight.as_str()), (b.addr(), "")], &[]) + &keys
    };
    let launch = Evergate::with(&yaml(1));
    fs::write(launch.dir().join("token"), "a-token-of-some-length").unwrap();
    let evergate = launch.start();
    let token = [("Authorization", "Bearer a-token-of-some-length")];
    let drained = evergate.post("/api/v1/clusters/c/backends/a/drain", &token, b"");
    assert_eq!(drained.status, 200);
    evergate.reload(&yaml(1000));
    for _ in 0..20 {
        assert_eq!(name_at(listens), "b");
    }
}

/// Issue, part 5: reload
#[test]
fn what_changes_only_at_a_restart_is_said_and_the_rest_is_in_force() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (a, b, listens) = (Backend::named("a"), Backend::named("b"), free_addr());
    let yaml = |backend: &Backend| file(listens, &plain(&[backend.addr()]), &[]);
    let evergate = Evergate::start(&yaml(&a));
    let threads = evergate.threads();
    evergate.write_file(&(yaml(&b) + "workers: 7\nlog: {format: text, level: debug}\n"));
    wait_for_name(listens, "b");
    evergate.wait_for_log("`workers` changes at the next restart");
    evergate.wait_for_log("`log.format` changes at the next restart");
    assert!(evergate.threads() < threads + 7);
    // The level is not one of them: the ends of sessions are told from now on.
    evergate.wait_for_log("session ended");
    let lines = evergate.log_lines().len();
    assert_eq!(
        evergate.logs().len(),
        lines,
        "a line is no JSON: {}",
        evergate.stderr()
    );
}

/// Issue, part 5: includes
#[test]
fn a_file_that_appears_in_an_included_folder_is_in_force_until_it_goes() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (a, b, listens, included) = (
        Backend::named("a"),
        Backend::named("b"),
        free_addr(),
        free_addr(),
    );
    let yaml = file(listens, &plain(&[a.addr()]), &[]) + "include: [conf.d/*.yaml]\n";
    let launch = Evergate::with(&yaml);
    let folder = launch.dir().join("conf.d");
    fs::create_dir(&folder).unwrap();
    let _evergate = launch.start();
    let (mut session, _) = greeted(listens).unwrap();
    for _ in 0..2 {
        let more = format!(
            "clusters: {{d: {{backends: [\"{}\"]}}}}\nlisteners: {{m: {{bind: \"{included}\", cluster: d}}}}\n",
            b.addr()
        );
        fs::write(folder.join("more.yaml"), more).unwrap();
        wait_until(PATIENCE, "the included listener", || {
            greeted(included).is_ok_and(|(_, name)| name == "b")
        });
        fs::remove_file(folder.join("more.yaml")).unwrap();
        wait_until(PATIENCE, "it is gone", || {
            TcpStream::connect(included).is_err()
        });
    }
    session.shutdown(Shutdown::Write).unwrap();
    assert!(rest(&mut session).is_empty());
}

/// C5: a session that is relayed at full speed
#[test]
fn a_bulk_stream_through_a_hundred_reloads_arrives_whole() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let bytes = 30 << 20;
    let (source, listens) = (Backend::start(Behaviour::Stream { bytes }), free_addr());
    let yaml = |weight: u32| {
        file(
            listens,
            &[(source.addr(), &format!("weight: {weight}"))],
            &[],
        )
    };
    let evergate = Evergate::start(&yaml(1));
    let arrived = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for weight in 2.. {
                evergate.write_file(&yaml(weight % 1000));
                evergate.signal(Signal::HUP);
                thread::sleep(Duration::from_millis(10));
                if weight > 100 && arrived.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        let _arrived = SetWhenDropped(&arrived);
        let mut session = connect(listens);
        let seen = expect_pattern(&mut session, Pattern::new(), u64::MAX);
        assert_eq!(seen.unwrap(), bytes);
    });
}
