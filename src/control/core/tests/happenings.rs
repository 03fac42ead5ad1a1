//! What the core tells of what happens, in order.

use super::*;
use crate::control::happening::What;

fn story(world: &mut World) -> Vec<(String, Cause)> {
    let tell = |happening: Happening| {
        let name = happening
            .backend
            .map_or_else(String::new, |it| it.to_string());
        let what = match happening.what {
            What::Error => "error",
            What::Unserved { .. } => "unserved",
            What::Served => "served",
            What::Health { to, .. } => to.as_str(),
            other => panic!("{other:?}"),
        };
        (format!("{name} {what}"), happening.cause)
    };
    world.happened.drain(..).map(tell).collect()
}

#[test]
fn the_last_backend_s_death_is_told_from_its_first_error_on() {
    let mut world = World::new(vec![cluster("a", &["db1"])]);
    world.run(SECOND * 10, up);
    let passed = Cause::CheckPassed;
    let expected = [
        ("db1 up".to_owned(), passed),
        ("db1 served".to_owned(), passed),
    ];
    assert_eq!(story(&mut world), expected);

    world.run(SECOND * 10, |_| Err(Cause::ConnectRefused));
    let errors: Vec<_> = world.happened.clone();
    let refused = Cause::ConnectRefused;
    let expected = ["db1 error", "db1 unserved", "db1 down"];
    let expected = expected.map(|it| (it.to_owned(), refused));
    assert_eq!(
        story(&mut world),
        expected,
        "one error, however many follow"
    );
    let What::Unserved { before } = &errors[1].what else {
        panic!("{errors:#?}");
    };
    let (error, cause) = before.first_error.unwrap();
    assert_eq!((error, cause), (errors[0].at, refused));
    let good = before.last_good.unwrap().instant;
    assert!(good < error.instant && error.instant < errors[1].at.instant);
}

#[test]
fn of_one_that_was_never_up_no_error_is_told() {
    let mut world = World::new(vec![cluster("a", &["db1"])]);
    world.run(SECOND * 10, |_| Err(Cause::ConnectRefused));
    let told = [("db1 down".to_owned(), Cause::ConnectRefused)];
    assert_eq!(story(&mut world), told);
}

#[test]
fn an_error_that_comes_to_nothing_is_forgotten() {
    let mut world = World::new(vec![cluster("a", &["db1"])]);
    world.run(SECOND * 10, up);
    world.happened.clear();
    let (id, now) = (world.entry("db1").handle.id, world.moment());
    world.core.report(id, Cause::Reset, now);
    world.core.report(id, Cause::Reset, now);
    world.run(SECOND * 10, up);
    assert_eq!(story(&mut world), [("db1 error".to_owned(), Cause::Reset)]);
    world.core.report(id, Cause::EarlyClose, now);
    world.settle();
    assert_eq!(
        story(&mut world),
        [("db1 error".to_owned(), Cause::EarlyClose)]
    );
}

#[test]
fn happenings_that_nobody_takes_are_bounded() {
    let mut world = World::new(vec![cluster("a", &["db1"])]);
    world.run(SECOND * 10, up);
    world.happened.clear();
    for _ in 0..5000 {
        let (id, now) = (world.entry("db1").handle.id, world.moment());
        world.core.report(id, Cause::Reset, now);
        world.now += SECOND * 5;
        world.probe(up);
    }
    let now = world.moment();
    assert_eq!(world.core.take_happenings(now).len(), 4096);
}
