//! Clients and backends of the bench, on one thread each.

use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;

use crate::shared::runtime;

const MESSAGE_BYTES: usize = 100;
const CHUNK_BYTES: usize = 256 * 1024;

/// Sends bytes for as long as the client reads them.
pub fn bulk_backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut stream = stream;
                // Health checks come and go without asking.
                if !matches!(stream.read(&mut [0]), Ok(1)) {
                    return;
                }
                let chunk = vec![7; CHUNK_BYTES];
                while stream.write_all(&chunk).is_ok() {}
            });
        }
    });
    address
}

/// `connections` clients send a message and wait for the answer, `operations` times in all.
pub fn ping_pong(proxy: SocketAddr, connections: usize, operations: usize) -> f64 {
    runtime().block_on(async {
        let each = operations / connections;
        let clients: Vec<_> = (0..connections)
            .map(|_| {
                tokio::spawn(async move {
                    let mut stream = tokio::net::TcpStream::connect(proxy).await.unwrap();
                    stream.set_nodelay(true).unwrap();
                    let mut message = [1; MESSAGE_BYTES];
                    for _ in 0..each {
                        stream.write_all(&message).await.unwrap();
                        stream.read_exact(&mut message).await.unwrap();
                    }
                })
            })
            .collect();
        for client in clients {
            client.await.unwrap();
        }
        (each * connections) as f64
    })
}

/// Connect, one message, close; a few at a time.
pub fn churn(proxy: SocketAddr, operations: usize) -> f64 {
    const AT_ONCE: usize = 16;
    runtime().block_on(async {
        let clients: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                tokio::spawn(async move {
                    for _ in 0..operations / AT_ONCE {
                        let mut stream = tokio::net::TcpStream::connect(proxy).await.unwrap();
                        let mut message = [1; MESSAGE_BYTES];
                        stream.write_all(&message).await.unwrap();
                        stream.read_exact(&mut message).await.unwrap();
                    }
                })
            })
            .collect();
        for client in clients {
            client.await.unwrap();
        }
        (operations / AT_ONCE * AT_ONCE) as f64
    })
}

/// Reads `gigabytes` in all over `connections`; returns the gigabytes read.
pub fn bulk(proxy: SocketAddr, connections: usize, gigabytes: usize) -> f64 {
    let each = gigabytes * 1_000_000_000 / connections;
    let readers: Vec<_> = (0..connections)
        .map(|_| {
            thread::spawn(move || {
                let mut stream = TcpStream::connect(proxy).unwrap();
                stream.write_all(&[1]).unwrap();
                let mut buffer = vec![0; CHUNK_BYTES];
                let mut left = each;
                while left > 0 {
                    let read = stream.read(&mut buffer).unwrap();
                    assert!(read > 0, "the stream ended early");
                    left = left.saturating_sub(read);
                }
            })
        })
        .collect();
    for reader in readers {
        reader.join().unwrap();
    }
    gigabytes as f64
}

/// Opens idle connections that have said a word each and keeps them for ever.
pub fn idle(proxy: SocketAddr, connections: usize) -> f64 {
    let streams: Vec<_> = (0..connections)
        .map(|_| {
            let mut stream = TcpStream::connect(proxy).unwrap();
            let mut message = [1; MESSAGE_BYTES];
            stream.write_all(&message).unwrap();
            stream.read_exact(&mut message).unwrap();
            stream
        })
        .collect();
    thread::sleep(Duration::from_millis(300));
    std::mem::forget(streams);
    connections as f64
}
