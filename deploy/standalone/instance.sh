# shellcheck shell=bash
# What `up` and `down` both know about one instance on this machine: its state folder, its processes, its loop
# devices. Never touches a process, mount or device that does not name the state folder.

PATH=$PATH:/usr/sbin:/sbin

# shellcheck disable=SC2034 # used by those who source this
# The components that `up` starts, in the order of starting; `down` goes backwards.
COMPONENTS=(weed-master weed-volume-meta weed-filer weed-s3 controller agent)

say() { printf '[%3ds] %s\n' "$SECONDS" "$*"; }
note() { printf '       %s\n' "$*"; }
fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}
usage_error() {
    printf '%s: %s\nTry %s --help\n' "${0##*/}" "$*" "$0" >&2
    exit 64
}

# is_ours PID: a program of ours that names this state folder, not just a process that got an old number.
is_ours() {
    local exe
    exe=$(readlink "/proc/$1/exe" 2>/dev/null) || return 1
    exe=${exe% (deleted)}
    case ${exe##*/} in
    smart-storage-controller | smart-storage-agent | weed) ;;
    *) return 1 ;;
    esac
    grep -qzF -- "$STATE/" "/proc/$1/cmdline" 2>/dev/null
}

# running NAME: prints the pid of a component that is up.
running() {
    local pid
    pid=$(cat "$STATE/run/$1.pid" 2>/dev/null) || return 1
    [[ $pid =~ ^[0-9]+$ ]] && is_ours "$pid" && echo "$pid"
}

# stop_pid PID SECONDS: asks, waits, and only then kills.
stop_pid() {
    local pid=$1 tenths=$(($2 * 10))
    kill "$pid" 2>/dev/null || return 0
    while is_ours "$pid" && ((tenths-- > 0)); do sleep 0.1; done
    if is_ours "$pid"; then
        kill -9 "$pid" 2>/dev/null || true
        tenths=50
        while is_ours "$pid" && ((tenths-- > 0)); do sleep 0.1; done
    fi
}

# stop_component NAME
stop_component() {
    local pid patience=10
    # A filer listens to itself and waits 15 s for that stream to end. Its store does not need it: it survives kill -9.
    [[ $1 != weed-filer ]] || patience=1
    if pid=$(running "$1"); then
        say "stopping $1 (pid $pid)"
        stop_pid "$pid" "$patience"
    fi
    rm -f "$STATE/run/$1.pid"
}

# our_loops: loop devices over files of this state folder, as "DEVICE FILE" lines.
our_loops() {
    local sys file
    for sys in /sys/block/loop*; do
        file=$(cat "$sys/loop/backing_file" 2>/dev/null) || continue
        file=${file% (deleted)}
        [[ $file == "$STATE"/drives/* ]] && echo "/dev/${sys##*/} $file"
    done
    return 0
}

# our_mounts: mount points under the state folder, the deepest first.
our_mounts() {
    local path
    while read -r _ _ _ _ path _; do
        path=$(printf '%b' "$path")
        [[ $path == "$STATE"/* ]] && echo "$path"
    done </proc/self/mountinfo | tac
    return 0
}

# our_processes: pids of all programs of ours that name this state folder, members and mounts of claims included.
our_processes() {
    local dir
    for dir in /proc/[0-9]*; do
        is_ours "${dir##*/}" && echo "${dir##*/}"
    done
    return 0
}
