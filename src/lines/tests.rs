//! What is written, and what happens when the other end is stuck or full.

use super::*;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::Sender;
use std::sync::mpsc::channel;

const PLENTY: Duration = Duration::from_secs(10);

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Memory {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn lines(output: impl Write + Send + 'static) -> Lines {
    let output = Box::new(output);
    Lines::start("lines", output, Duration::ZERO, Arc::default()).unwrap()
}

fn dropped(lines: &Lines) -> u64 {
    lines.dropped().load(Ordering::Relaxed)
}

/// Says when it is written to, and blocks until the other sender goes away, like a full pipe.
struct Stuck {
    entered: Sender<()>,
    unblocked: Receiver<()>,
}

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.entered.send(());
        let _ = self.unblocked.recv();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The thread hangs in the write of one line already.
fn stuck() -> (Lines, Sender<()>) {
    let (entered, has_entered) = channel();
    let (unblock, unblocked) = channel();
    let lines = lines(Stuck { entered, unblocked });
    lines.push(b"stuck\n");
    has_entered.recv_timeout(PLENTY).unwrap();
    (lines, unblock)
}

#[test]
fn a_stuck_output_drops_lines_and_counts_them() {
    let (lines, unblock) = stuck();
    let line = [b'x'; 1024];
    let fits = MAX_PENDING_BYTES / line.len();
    for _ in 0..fits + 500 {
        lines.push(&line);
    }
    assert_eq!(dropped(&lines), 500);
    assert_eq!(lines.shared.lock().text.len(), MAX_PENDING_BYTES);
    drop(unblock);
    lines.flush(PLENTY);
    assert!(lines.shared.lock().text.is_empty());
    assert_eq!(dropped(&lines), 500);
}

#[test]
fn long_lines_cannot_fill_the_memory() {
    let (lines, _unblock) = stuck();
    for _ in 0..100 {
        lines.push(&vec![b'x'; MAX_PENDING_BYTES / 10]);
    }
    assert!(lines.shared.lock().text.len() <= MAX_PENDING_BYTES);
    assert_eq!(dropped(&lines), 90);
}

#[test]
fn a_flush_does_not_wait_for_a_stuck_output() {
    let (lines, _unblock) = stuck();
    // Returns although nobody will ever say that the line is written.
    lines.flush(Duration::from_millis(50));
}

/// Fails `failures` times, each time after half of what it was given.
struct Flaky {
    memory: Memory,
    failures: u32,
    half_done: bool,
}

impl Write for Flaky {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.failures == 0 {
            return self.memory.write(bytes);
        }
        self.half_done = !self.half_done;
        if self.half_done {
            return self.memory.write(&bytes[..bytes.len() / 2]);
        }
        self.failures -= 1;
        Err(io::ErrorKind::StorageFull.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn flaky(memory: &Memory) -> Flaky {
    Flaky {
        memory: memory.clone(),
        failures: 1,
        half_done: false,
    }
}

#[test]
fn a_full_disk_loses_lines_but_never_joins_two() {
    let memory = Memory::default();
    let lines = lines(flaky(&memory));
    for line in ["first\n", "second\n", "third\n"] {
        lines.push(line.as_bytes());
        lines.flush(PLENTY);
    }
    assert_eq!(memory.text(), "fir\nsecond\nthird\n");
    assert_eq!(dropped(&lines), 1);
}

#[test]
fn a_write_that_fails_loses_one_line_of_many() {
    let memory = Memory::default();
    let lines = lines(flaky(&memory));
    // Half of it ends inside the second line.
    lines.push(b"first\nsecond\nthird\n");
    lines.flush(PLENTY);
    assert_eq!(memory.text(), "first\nsec\nthird\n");
    assert_eq!(dropped(&lines), 1);
}

#[test]
fn lines_that_come_together_are_written_together() {
    struct Counting(Memory, Arc<AtomicU64>);
    impl Write for Counting {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (memory, writes) = (Memory::default(), Arc::new(AtomicU64::new(0)));
    let output = Box::new(Counting(memory.clone(), Arc::clone(&writes)));
    // Nobody waits so long: the flush ends the gathering.
    let gather = Duration::from_secs(3600);
    let lines = Lines::start("lines", output, gather, Arc::default()).unwrap();
    for _ in 0..100 {
        lines.push(b"line\n");
    }
    lines.flush(PLENTY);
    assert_eq!(memory.text(), "line\n".repeat(100));
    assert_eq!(writes.load(Ordering::Relaxed), 1);
}

#[test]
fn the_end_writes_what_is_left() {
    let (written, has_written) = channel();
    struct Telling(Sender<Vec<u8>>);
    impl Write for Telling {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let gather = Duration::from_secs(3600);
    let output = Box::new(Telling(written));
    let lines = Lines::start("lines", output, gather, Arc::default()).unwrap();
    lines.push(b"last\n");
    drop(lines);
    assert_eq!(has_written.recv_timeout(PLENTY).unwrap(), b"last\n");
    // The thread is gone, and its output with it.
    assert!(has_written.recv_timeout(PLENTY).is_err());
}

#[test]
fn lines_after_a_new_output_go_there() {
    let (old, new) = (Memory::default(), Memory::default());
    let lines = lines(old.clone());
    lines.push(b"before\n");
    lines.flush(PLENTY);
    lines.replace_output(Box::new(new.clone()));
    lines.push(b"after\n");
    lines.flush(PLENTY);
    assert_eq!((&*old.text(), &*new.text()), ("before\n", "after\n"));
}
