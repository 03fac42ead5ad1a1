#!/usr/bin/env bash
# Installs the programs the tests drive, from Debian packages, if any is missing.
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
    nginx:nginx-light
    haproxy:haproxy
    promtool:prometheus
    wrk:wrk
    nft:nftables
    ip:iproute2
    openssl:openssl
    faketime:faketime
    ps:procps
    prlimit:util-linux
    setpriv:util-linux
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
}

packages=$(missing | sort -u)
[[ -n $packages ]] || exit 0

echo "installing what the tests need:" $packages
if ! command -v apt-get >/dev/null; then
    echo "error: no apt-get here; install the above by hand and run again" >&2
    exit 1
fi

as_root=()
if [[ $(id -u) -ne 0 ]]; then
    if ! command -v sudo >/dev/null; then
        echo "error: not root and no sudo; install the above by hand and run again" >&2
        exit 1
    fi
    as_root=(sudo)
fi

# Exit code 101 of this file is Debian's way to say "do not start services".
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
    trap '"${as_root[@]}" rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
    "${as_root[@]}" chmod 755 "$policy"
fi

apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0)
"${apt[@]}" update
"${apt[@]}" install --yes --no-install-recommends $packages >/dev/null

left=$(missing | sort -u)
if [[ -n $left ]]; then
    echo "error: still missing after the installation:" $left >&2
    exit 1
fi
