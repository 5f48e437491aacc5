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
