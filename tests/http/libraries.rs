//! Libraries that people use, on both sides of the proxy: Python's websockets and gRPC's own.

use std::net::SocketAddr;
use std::path::Path;

use tempfile::TempDir;

use crate::support::PATIENCE;
use crate::support::ports::free_addr;
use crate::support::process::Process;
use crate::support::process::run;
use crate::support::process::words;
use crate::support::wait_until;
use crate::world::TCP_CHECK;
use crate::world::stage;

/// Debian's, for which the packages are.
const PYTHON: &str = "/usr/bin/python3";

const WEBSOCKET_SERVER: &str = r"
import asyncio, sys, websockets

async def echo(socket):
    async for message in socket:
        await socket.send(message)

async def main():
    host, port = sys.argv[1], int(sys.argv[2])
    async with websockets.serve(echo, host, port, max_size=1 << 24, ping_interval=None):
        await asyncio.Future()

asyncio.run(main())
";

const WEBSOCKET_CLIENT: &str = r"
import asyncio, os, sys, websockets

async def talk(url):
    async with websockets.connect(url, max_size=1 << 24, ping_interval=None, open_timeout=60) as socket:
        for size in (0, 1, 125, 126, 65536, 300000):
            message = os.urandom(size)
            await socket.send(message)
            assert await socket.recv() == message, size
        await socket.send('text')
        assert await socket.recv() == 'text'
        await (await socket.ping())

async def main():
    url = f'ws://{sys.argv[1]}:{sys.argv[2]}/chat'
    await asyncio.gather(*(talk(url) for _ in range(5)))
    print('talked')

asyncio.run(main())
";

const GRPC_SERVER: &str = r"
import sys, grpc, time
from concurrent import futures

def unary(request, context):
    context.set_trailing_metadata((('x-kept', 'yes'),))
    return request + b'!'

def refuse(request, context):
    context.abort(grpc.StatusCode.NOT_FOUND, 'no such thing')

def many(request, context):
    for number in range(int(request)):
        yield str(number).encode()

def total(requests, context):
    return str(sum(int(it) for it in requests)).encode()

def both(requests, context):
    for request in requests:
        yield request

methods = {
    'Unary': grpc.unary_unary_rpc_method_handler(unary),
    'Refuse': grpc.unary_unary_rpc_method_handler(refuse),
    'Many': grpc.unary_stream_rpc_method_handler(many),
    'Total': grpc.stream_unary_rpc_method_handler(total),
    'Both': grpc.stream_stream_rpc_method_handler(both),
}
server = grpc.server(futures.ThreadPoolExecutor(8))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler('t.T', methods),))
assert server.add_insecure_port(f'{sys.argv[1]}:{sys.argv[2]}')
server.start()
time.sleep(600)
";

const GRPC_CLIENT: &str = r"
import sys, grpc

with grpc.insecure_channel(f'{sys.argv[1]}:{sys.argv[2]}') as channel:
    wait = dict(timeout=60)
    unary = channel.unary_unary('/t.T/Unary')
    answer, call = unary.with_call(b'x', **wait)
    assert answer == b'x!' and ('x-kept', 'yes') in call.trailing_metadata(), call
    large = bytes(3000000)
    assert unary(large, **wait) == large + b'!'
    try:
        channel.unary_unary('/t.T/Refuse')(b'x', **wait)
        raise SystemExit('not refused')
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.NOT_FOUND, error
        assert error.details() == 'no such thing', error
    many = list(channel.unary_stream('/t.T/Many')(b'2000', **wait))
    assert many == [str(it).encode() for it in range(2000)]
    numbers = (str(it).encode() for it in range(2000))
    assert channel.stream_unary('/t.T/Total')(numbers, **wait) == b'1999000'
    echoed = channel.stream_stream('/t.T/Both')((str(it).encode() for it in range(500)), **wait)
    assert list(echoed) == [str(it).encode() for it in range(500)]
    cancelled = channel.unary_stream('/t.T/Many')(b'100000000', **wait)
    assert next(cancelled) == b'0'
    cancelled.cancel()
    assert unary(b'y', **wait) == b'y!'
print('called')
";

/// A server of a script's, which accepts.
struct Served {
    addr: SocketAddr,
    _process: Process,
    _dir: TempDir,
}

fn arguments(script: &Path, addr: SocketAddr) -> Vec<String> {
    let script = script.display().to_string();
    words(&[
        PYTHON,
        &script,
        &addr.ip().to_string(),
        &addr.port().to_string(),
    ])
}

fn serve(script: &str) -> Served {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("server.py");
    std::fs::write(&path, script).unwrap();
    let addr = free_addr();
    let mut process = Process::start(&arguments(&path, addr), &[], dir.path());
    wait_until(PATIENCE, "the server accepts", || {
        assert!(process.is_running(), "{}", process.stderr());
        std::net::TcpStream::connect(addr).is_ok()
    });
    Served {
        addr,
        _process: process,
        _dir: dir,
    }
}

fn talk(script: &str, addr: SocketAddr) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("client.py");
    std::fs::write(&path, script).unwrap();
    let words = arguments(&path, addr);
    let words: Vec<&str> = ["timeout", "120"]
        .into_iter()
        .chain(words.iter().map(String::as_str))
        .collect();
    run(&words)
}

#[test]
fn the_websockets_library_talks_through_the_proxy() {
    let server = serve(WEBSOCKET_SERVER);
    let stage = stage(&[server.addr], TCP_CHECK, "");
    assert_eq!(talk(WEBSOCKET_CLIENT, stage.addr), "talked\n");
    let active = "evergate_backend_connections_active";
    stage.evergate.wait_for_metric(active, &[], 0.0);
}

#[test]
fn the_grpc_library_calls_through_the_proxy() {
    let servers = [serve(GRPC_SERVER), serve(GRPC_SERVER)];
    let addrs = servers.each_ref().map(|server| server.addr);
    let cluster = format!("{TCP_CHECK}, http: {{version: 2}}, balance: {{policy: round_robin}}");
    let stage = stage(&addrs, &cluster, "");
    assert_eq!(talk(GRPC_CLIENT, stage.addr), "called\n");
    let active = "evergate_backend_connections_active";
    stage.evergate.wait_for_metric(active, &[], 0.0);
}
