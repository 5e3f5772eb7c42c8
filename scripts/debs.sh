# Sourced by get-criu and get-crit: Debian packages into a prefix, without
# root and without a trace in the system's own apt or dpkg.
#
# apt gets lists, sources and a dpkg status of its own, so that it resolves
# the whole closure of libraries and the machine's sources stay as they are.
# It checks what it fetches: the index by Debian's signature (a keyring of
# Debian 12 knows the later keys too), each package by the digest in there.

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$*"; exit 1; }

need() {
    local tool
    for tool in "$@"; do
        command -v "$tool" >/dev/null || die "$tool is missing (this script is for Debian)"
    done
}

# apt_in DIR SOURCE...: prepares an apt in DIR and reads its indexes. Each
# SOURCE is "URL SUITE".
apt_in() {
    local dir=$1 source
    shift
    mkdir -p "$dir"/{lists,archives}/partial "$dir"/{parts,root}
    : >"$dir/status"
    : >"$dir/sources.list"
    local keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    [ -r "$keyring" ] || die "$keyring is missing (package debian-archive-keyring)"
    for source in "$@"; do
        echo "deb [arch=amd64 signed-by=$keyring] $source main" >>"$dir/sources.list"
    done
    # Of the system's settings only how to reach the network, none of its
    # hooks. An index past its date is fine: the version is pinned anyhow.
    apt-config dump 2>/dev/null | grep -E '^Acquire::(https?|ftp)::' >"$dir/apt.conf" || true
    cat >>"$dir/apt.conf" <<CONF
Dir::Etc::main "$dir/none";
Dir::Etc::parts "$dir/parts";
Dir::State "$dir";
Dir::State::Lists "$dir/lists";
Dir::State::status "$dir/status";
Dir::Etc::sourcelist "$dir/sources.list";
Dir::Etc::sourceparts "$dir/parts";
Dir::Etc::preferences "$dir/preferences";
Dir::Etc::preferencesparts "$dir/parts";
Dir::Cache "$dir";
Dir::Cache::archives "$dir/archives";
Dir::Log "$dir";
APT::Architecture "amd64";
APT::Architectures { "amd64"; };
APT::Install-Recommends "false";
APT::Sandbox::User "$(id -un)";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::Check-Valid-Until "false";
Acquire::Retries "3";
CONF
    export APT_CONFIG=$dir/apt.conf
    apt-get -qq update >&2
}

# unpack DIR: unpacks every fetched package into DIR/root.
unpack() {
    local dir=$1 deb
    for deb in "$dir"/archives/*.deb; do
        dpkg-deb --extract "$deb" "$dir/root"
    done
}
