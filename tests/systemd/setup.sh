#!/bin/bash
# What the tests under a real systemd need; they run as root only, so nothing is asked of others.
set -euo pipefail
source "$(dirname "$0")/../../cffi_build/packages.sh"
declare -A needed=(
    [/lib/systemd/systemd]=systemd
    [/usr/bin/dbus-daemon]=dbus
    [/usr/bin/nsenter]=util-linux
)
[ "$(id -u)" != 0 ] || install_missing needed
