# shellcheck shell=bash
# Debian packages without touching the machine's own lists: a private apt configuration over the servers that the
# machine's own sources name, or DEBIAN_MIRROR. Wants `fail` and `say`.

# server NAME: the server of the machine's own sources whose path ends in NAME.
server() {
    sed -nE "s#^(URIs:|deb( \\[[^]]*\\])?) +([a-z]+://[^ ]*/$1)/?( .*)?\$#\\3#p" \
        /etc/apt/sources.list /etc/apt/sources.list.d/*.{sources,list} 2>/dev/null | head -n 1 || true
}

# private_apt FOLDER: sets the array `apt`, options for apt-get and apt-cache over Debian 12 with its backports.
private_apt() {
    local folder=$1 main security suite keys=/usr/share/keyrings/debian-archive-keyring.gpg
    main=${DEBIAN_MIRROR:-$(server debian)} security=$(server debian-security)
    [[ $main ]] || fail "no server of Debian packages in /etc/apt; DEBIAN_MIRROR=URL names one"
    [[ -e $keys ]] || fail "no $keys (package debian-archive-keyring)"
    mkdir -p "$folder"/{lists,archives}/partial
    {
        for suite in bookworm bookworm-updates bookworm-backports; do echo "deb [signed-by=$keys] $main $suite main"; done
        [[ -z $security ]] || echo "deb [signed-by=$keys] $security bookworm-security main"
    } >"$folder/sources.list"
    apt=(-q=2 -o Dir::Etc::sourcelist="$folder/sources.list" -o Dir::Etc::sourceparts=/dev/null
        -o Dir::State::lists="$folder/lists" -o Dir::Cache="$folder" -o APT::Sandbox::User=root
        -o DPkg::Lock::Timeout=600)
    if [[ -z $(find "$folder/lists" -maxdepth 1 -name '*_Packages*' -mtime -1 -print -quit) ]]; then
        say "asking which packages there are"
        apt-get "${apt[@]}" update
    fi
}
