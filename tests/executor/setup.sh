#!/bin/bash
# What tests/executor/test_cpython.py needs where the interpreter comes without its tests, as root only: the distribution's
# package of them, unpacked below the folder $1 and not installed. Its test package gets what the interpreter has of it.
set -euo pipefail
source "$(dirname "$0")/../../cffi_build/packages.sh"
[ "$(id -u)" = 0 ] || exit 0
[ ! -e "$1/cpython" ] || exit 0
"$1/bin/python" -c 'import test.test_concurrent_futures' 2>/dev/null && exit 0
version=$("$1/bin/python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
own=$("$1/bin/python" -c 'import test; print(test.__path__[0])')
rm -rf "$1/cpython.new"
unpack "$1/cpython.new" "lib$version-testsuite"
[ -e "$1/cpython.new" ] || exit 0
mv "$1/cpython.new/usr/lib/$version/test" "$1/cpython.new/test"
ln -s "$own/__init__.py" "$own/support" "$1/cpython.new/test/"
rm -r "$1/cpython.new/usr"
mv "$1/cpython.new" "$1/cpython"
