# Sourced by demo and test: Debian packages, installed where they are missing.

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$*"; exit 1; }

# as_root COMMAND...: runs it as root, through sudo if need be.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "this needs root, and there is no sudo: $*"
    fi
}

# install_packages PACKAGE...: installs those that are missing; does nothing,
# and needs nobody's password, if none is.
install_packages() {
    local package missing=()
    for package in "$@"; do
        dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed ||
            missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || die "please install: ${missing[*]}"
    say "installing ${missing[*]}"
    as_root apt-get -qq update >&2
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq install --no-install-recommends "${missing[@]}" >&2
}

# need_rust: finds cargo, also where rustup puts it.
need_rust() {
    export PATH=$PATH:$HOME/.cargo/bin
    command -v cargo >/dev/null || die "cargo is missing: install Rust 1.90 or later"
    # The linker of every Rust program.
    command -v cc >/dev/null || install_packages gcc libc6-dev
}
