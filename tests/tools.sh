# shellcheck shell=bash
# What the tests and checks need beyond the toolchain, installed into target/. Sourced by `test` and `.ci/run`.

target=${CARGO_TARGET_DIR:-$PWD/target}
venv=$target/venv
mkdir -p "$target"
# Behind the rest: what the machine has already is used first.
PATH=$PATH:$venv/bin

# pip_install NAME ARGUMENTS...: into the venv, once for each list of arguments; NAME's stamp remembers it.
pip_install() {
    local stamp=$venv/$1.installed
    shift
    [ -x "$venv/bin/pip" ] || python3 -m venv "$venv"
    [ "$(cat "$stamp" 2>/dev/null)" = "$*" ] && return
    "$venv/bin/pip" install --quiet --disable-pip-version-check "$@" && echo "$*" >"$stamp"
}

# need_cargo_tool TOOL VERSION: `cargo TOOL` by pip, or built from source where there is no wheel for this machine.
need_cargo_tool() {
    cargo "$1" --version >/dev/null 2>&1 && return
    pip_install "cargo-$1" "astral-dev-toolchain-cargo-$1==$2" || cargo install --locked --root "$venv" "cargo-$1"
}

# apt_install PACKAGE: true if it is there afterwards; only root can.
apt_install() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    [ -e "$target/apt-updated" ] || apt-get update -qq >/dev/null 2>&1 || return 1
    touch "$target/apt-updated"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$1" >/dev/null 2>&1
}
