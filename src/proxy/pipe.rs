//! Pooled kernel pipes for splice(2): bulk bytes never enter this process.

use std::cell::RefCell;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;

use rustix::pipe::PipeFlags;
use rustix::pipe::SpliceFlags;

/// Capacity asked for; the kernel grants less to users over their quota (64 MiB by default).
/// Large enough that a bulk transfer needs few system calls, small enough for the cache.
pub const PIPE_BYTES: usize = 512 * 1024;
/// Empty pipes kept per worker: one per direction that moves bulk at the same moment.
const MAX_POOLED_PIPES: usize = 16;
/// Pipes per worker at most, two descriptors each. Beyond it, bytes are copied.
const MAX_PIPES: usize = 32;

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { idle: Vec::new(), taken: 0 }) };
}

struct Pool {
    idle: Vec<Ends>,
    taken: usize,
}

#[derive(Debug)]
struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

/// A pipe of this worker's pool and the bytes in it.
#[derive(Debug)]
pub struct Pipe {
    ends: Option<Ends>,
    filled_bytes: usize,
}

impl Pipe {
    /// A pipe from the pool, or a new one; `None` at the limit or without descriptors.
    pub fn take() -> Option<Self> {
        POOL.with_borrow_mut(|pool| {
            let ends = match pool.idle.pop() {
                Some(ends) => ends,
                None if pool.taken >= MAX_PIPES => return None,
                None => Ends::new().ok()?,
            };
            pool.taken += 1;
            Some(Self {
                ends: Some(ends),
                filled_bytes: 0,
            })
        })
    }

    /// Bytes that came in and have not gone out.
    pub fn filled_bytes(&self) -> usize {
        self.filled_bytes
    }

    /// Moves what the socket has into the pipe; 0 = end of stream.
    ///
    /// # Errors
    /// As splice(2); `WouldBlock` when the socket has nothing.
    pub fn fill(&mut self, from: &impl AsFd) -> io::Result<usize> {
        let Some(ends) = &self.ends else {
            return Ok(0);
        };
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        let moved = rustix::pipe::splice(from, None, &ends.write, None, PIPE_BYTES, flags)?;
        self.filled_bytes += moved;
        Ok(moved)
    }

    /// Moves what the pipe has into the socket.
    ///
    /// # Errors
    /// As splice(2); `WouldBlock` when the socket takes nothing.
    pub fn drain(&mut self, to: &impl AsFd) -> io::Result<usize> {
        let Some(ends) = &self.ends else {
            return Ok(0);
        };
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        let moved = rustix::pipe::splice(&ends.read, None, to, None, self.filled_bytes, flags)?;
        self.filled_bytes -= moved;
        Ok(moved)
    }
}

impl Ends {
    fn new() -> io::Result<Self> {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // A smaller pipe only costs more system calls.
        let _ = rustix::pipe::fcntl_setpipe_size(&write, PIPE_BYTES);
        Ok(Self { read, write })
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let Some(ends) = self.ends.take() else {
            return;
        };
        // The pool is gone while its thread ends; then the pipe just closes.
        let _ = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            pool.taken -= 1;
            // Bytes of one session must never reach another.
            if self.filled_bytes == 0 && pool.idle.len() < MAX_POOLED_PIPES {
                pool.idle.push(ends);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    #[test]
    fn bytes_pass_through_unchanged() {
        let (mut client, inside) = UnixStream::pair().unwrap();
        let (outside, mut backend) = UnixStream::pair().unwrap();
        client.write_all(b"0123456789").unwrap();

        let mut pipe = Pipe::take().unwrap();
        assert_eq!(pipe.fill(&inside).unwrap(), 10);
        assert_eq!(pipe.drain(&outside).unwrap(), 10);
        assert_eq!(pipe.filled_bytes(), 0);

        let mut received = [0; 10];
        backend.read_exact(&mut received).unwrap();
        assert_eq!(&received, b"0123456789");
    }

    #[test]
    fn a_pipe_with_bytes_in_it_is_never_pooled() {
        let (mut client, inside) = UnixStream::pair().unwrap();
        client.write_all(b"secret").unwrap();
        let mut pipe = Pipe::take().unwrap();
        pipe.fill(&inside).unwrap();
        let pooled = POOL.with_borrow(|pool| pool.idle.len());
        drop(pipe);
        assert_eq!(POOL.with_borrow(|pool| pool.idle.len()), pooled);
    }

    #[test]
    fn the_number_of_pipes_is_bounded() {
        let pipes: Vec<_> = std::iter::from_fn(Pipe::take).collect();
        assert_eq!(pipes.len(), MAX_PIPES);
        drop(pipes);
        assert!(Pipe::take().is_some());
    }
}
