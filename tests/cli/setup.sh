#!/bin/bash
# What the tests of `simplerctl --host` need: an sshd that they start themselves, as root only.
set -euo pipefail
source "$(dirname "$0")/../../cffi_build/packages.sh"
declare -A needed=(
    [/usr/sbin/sshd]=openssh-server
    [/usr/bin/ssh]=openssh-client
)
[ "$(id -u)" != 0 ] || install_missing needed
