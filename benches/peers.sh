#!/usr/bin/env bash
# Installs the peers that `wire` compares tidegate with: throttlecrab into the folder given (default target/peers), by cargo, as its
# authors release it; redis-server where it is not in PATH and apt may be used.
set -euo pipefail
folder=$(realpath -m "${1:-$(dirname "$0")/../target/peers}")
cd "$(dirname "$0")/.."
. tests/tools.sh

if [ ! -x "$folder/bin/throttlecrab-server" ]; then
    command -v protoc >/dev/null || apt_install protobuf-compiler || {
        echo "throttlecrab is built with protoc, which is not installed, and only root can install it" >&2
        exit 1
    }
    cargo install --locked --root "$folder" --version 0.4.40 throttlecrab-server
fi
command -v redis-server >/dev/null || command -v redis-check-rdb >/dev/null || apt_install redis-tools ||
    echo "redis-server is not installed, and only root can install it" >&2
# The package with the program alone: it is a server where it is called so.
if ! command -v redis-server >/dev/null && command -v redis-check-rdb >/dev/null; then
    ln -sf "$(command -v redis-check-rdb)" "$folder/bin/redis-server"
fi
echo "TIDEGATE_PEERS=$folder"
