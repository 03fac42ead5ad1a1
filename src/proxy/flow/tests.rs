//! A flow against real sockets.

use super::*;
use crate::proxy::pipe::PIPE_BYTES;
use std::io::Read;
use std::io::Write;
use std::thread;

const BULK_BYTES: usize = 256 << 20;

async fn pair() -> (TcpStream, std::net::TcpStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (socket, _) = listener.accept().unwrap();
    socket.set_nonblocking(true).unwrap();
    (TcpStream::from_std(socket).unwrap(), peer)
}

/// With both ends fast enough, one poll went on for as long as there were bytes: neither other
/// sessions nor the hand that severs this one had a turn.
#[tokio::test]
async fn a_bulk_stream_leaves_its_worker_to_others() {
    let (from, mut writer) = pair().await;
    let (to, mut reader) = pair().await;
    thread::spawn(move || {
        let bytes = vec![0; 1 << 20];
        for _ in 0..BULK_BYTES / bytes.len() {
            writer.write_all(&bytes).unwrap();
        }
    });
    thread::spawn(move || {
        let mut bytes = vec![0; 1 << 20];
        while reader.read(&mut bytes).unwrap() > 0 {}
    });
    let (mut from, mut to) = (Transport::Plain(from), Transport::Plain(to));
    let mut flow = Flow::default();
    let (mut total, mut most) = (0, 0);
    std::future::poll_fn(|cx| {
        let mut moved = 0;
        let polled = flow.poll(cx, &mut from, &mut to, false, |bytes| moved += bytes, None);
        total += moved;
        most = most.max(moved);
        polled
    })
    .await
    .unwrap();
    assert_eq!(total, BULK_BYTES);
    // What the runtime's own budget lets pass comes before the splices.
    let copied = 128 * BUFFER_BYTES;
    assert!(
        most <= copied + MAX_SPLICES_PER_POLL * PIPE_BYTES,
        "{most} bytes in one poll"
    );
}
