# Debian packages that are not there yet: installed when root, named otherwise.

# install_missing NAME: of an associative array that gives the package for each file which shows that it is there.
install_missing() {
    local -n packages=$1
    local file missing=()
    for file in "${!packages[@]}"; do [ -e "$file" ] || missing+=("${packages[$file]}"); done
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "missing: ${missing[*]}. As root: apt-get install ${missing[*]}" >&2
        return 1
    fi
    echo "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
}

# unpack FOLDER PACKAGE...: the files of packages, in a folder of their own. Nothing of them is run.
unpack() {
    local folder=$1 fetched
    shift
    command -v apt-get >/dev/null || { echo "left out, for want of apt-get: $*" >&2; return 0; }
    echo "unpacking $*"
    fetched=$(mktemp -d)
    apt-get update -qq
    (cd "$fetched" && apt-get download -qq -o APT::Sandbox::User=root "$@" >/dev/null)
    for package in "$fetched"/*.deb; do dpkg-deb --extract "$package" "$fetched/files"; done
    mv "$fetched/files" "$folder"
    rm -r "$fetched"
}
