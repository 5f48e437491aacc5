#!/bin/bash
# What the tests of `simplerctl --host` need, as root only: ssh, and an sshd that they start themselves. The package with
# sshd is unpacked below the folder $1, not installed: that might start a server on this machine, now or when it boots.
set -euo pipefail
source "$(dirname "$0")/../../cffi_build/packages.sh"
declare -A needed=([/usr/bin/ssh]=openssh-client)
[ "$(id -u)" = 0 ] || exit 0
install_missing needed
[ -e /usr/sbin/sshd ] || [ -e "$1/openssh-server" ] || unpack "$1/openssh-server" openssh-server libwrap0
