#!/usr/bin/env bash
# Installs the programs the tests drive, if any is missing: Debian packages, and Patroni from PyPI.
#
# Says nothing and changes nothing when all are there. Services that the
# packages bring are not started: the tests start their own.
set -euo pipefail

# A program that has to exist : the package that brings it.
needs=(
    cc:build-essential
    psql:postgresql-client-15
    pgbench:postgresql-15
    redis-server:redis-server
    redis-cli:redis-tools
    redis-benchmark:redis-tools
    mariadbd:mariadb-server
    mariadb:mariadb-client
    etcd:etcd-server
    etcdctl:etcd-client
    nginx:nginx-light
    haproxy:haproxy
    pgbouncer:pgbouncer
    promtool:prometheus
    wrk:wrk
    curl:curl
    nghttp:nghttp2-client
    h2load:nghttp2-client
    nft:nftables
    ip:iproute2
    openssl:openssl
    faketime:faketime
    ps:procps
    prlimit:util-linux
    setpriv:util-linux
    unshare:util-linux
    flock:util-linux
)

# Servers live in sbin, which is not on everybody's path.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

missing() {
    local need
    for need in "${needs[@]}"; do
        command -v "${need%%:*}" >/dev/null || echo "${need#*:}"
    done
    compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || echo postgresql-15
    [[ -e /usr/lib/nginx/modules/ngx_stream_module.so ]] || echo libnginx-mod-stream
    /usr/bin/python3 -c 'import ensurepip' 2>/dev/null || echo python3-venv
    /usr/bin/python3 -c 'import websockets' 2>/dev/null || echo python3-websockets
    /usr/bin/python3 -c 'import grpc' 2>/dev/null || echo python3-grpcio
}

fail() {
    echo "error: $*" >&2
    exit 1
}

install_packages() {
    echo "installing what the tests need:" "$@"
    command -v apt-get >/dev/null || fail "no apt-get here; install the above by hand and run again"

    local as_root=()
    if [[ $(id -u) -ne 0 ]]; then
        command -v sudo >/dev/null || fail "not root and no sudo; install the above by hand and run again"
        as_root=(sudo)
    fi

    # Exit code 101 of this file is Debian's way to say "do not start services".
    local policy=/usr/sbin/policy-rc.d
    if [[ ! -e $policy ]]; then
        # shellcheck disable=SC2064
        trap "${as_root[*]} rm -f $policy" EXIT
        printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
        "${as_root[@]}" chmod 755 "$policy"
    fi

    local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0)
    "${apt[@]}" update
    "${apt[@]}" install --yes --no-install-recommends "$@" >/dev/null
}

# Debian's Patroni 3.0.2 loses acknowledged writes when a frozen primary thaws.
patroni_version=4.1.5

# tests/support/patroni.rs looks in the same place. Root's home is closed to the user `postgres`,
# whom Patroni runs as.
cache="${XDG_CACHE_HOME:-$HOME/.cache}/evergate-tests"
[[ $(id -u) -ne 0 ]] || cache=/var/cache/evergate-tests

# `&&` throughout: bash ignores `set -e` in a function whose result is tested.
build_patroni() {
    umask 022 &&
        rm -rf "$1" &&
        /usr/bin/python3 -m venv "$1" &&
        "$1/bin/pip" install --no-input --disable-pip-version-check \
            "patroni[etcd3]==$patroni_version" 'psycopg[binary]>=3.2,<4' &&
        touch "$1/complete"
}

install_patroni() {
    local place=$1 log
    log=$(mktemp)
    mkdir -p "$cache"
    # Two checkouts may be tested at the same time.
    exec 9>"$cache/lock"
    flock 9
    if [[ ! -e $place/complete ]]; then
        echo "installing what the tests need: patroni $patroni_version (PyPI)"
        if ! build_patroni "$place" >"$log" 2>&1; then
            cat "$log" >&2
            rm -f "$log"
            fail "Patroni was not installed"
        fi
    fi
    rm -f "$log"
}

packages=$(missing | sort -u)
if [[ -n $packages ]]; then
    # shellcheck disable=SC2086
    install_packages $packages
    left=$(missing | sort -u)
    [[ -z $left ]] || fail "still missing after the installation:" $left
fi

patroni="$cache/patroni-$patroni_version"
[[ -e $patroni/complete ]] || install_patroni "$patroni"
