#!/bin/bash
# Makes VENV (the argument) with the package, its extension and its commands in it; says what is missing where it cannot.
set -euo pipefail
venv=$1 python=${PYTHON:-python3}

# shellcheck source=cffi_build/packages.sh
source "$(dirname "$0")/packages.sh"

declare -A needed=(
    [/usr/bin/gcc]=gcc
    [/usr/include/python3.11/Python.h]=python3-dev
    [/usr/lib/python3.11/ensurepip/__init__.py]=python3-venv
)
if [ "$(readlink -f "$python")" != /usr/bin/python3.11 ]; then # another Python brings its own headers and venv
    unset 'needed[/usr/include/python3.11/Python.h]' 'needed[/usr/lib/python3.11/ensurepip/__init__.py]'
fi
install_missing needed
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "$python is $("$python" --version); Simpler needs Python 3.11 or later. Set PYTHON=/path/to/python3.11" >&2
    exit 1
}

echo "setting up $venv"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip=("$venv/bin/python" -m pip --quiet --disable-pip-version-check)
"${pip[@]}" install 'setuptools>=77' 'cffi>=1.17'
"${pip[@]}" install --no-build-isolation -e '.[examples,bench,test,lint]'
# The editable install's import hook is asked last. For a program next to a clone called simpler, Python would find that
# folder first, as a package without code; what is on the path is found before such a folder.
printf '%s\n' "$PWD/client" "$PWD/daemon" >"$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/simpler.pth"
# For who runs it with PYTHONDONTWRITEBYTECODE: an executor's first result would wait for all to be compiled.
"$venv/bin/python" -m compileall -q -j 0 client daemon
touch "$venv/.native"
