#!/bin/bash
# Installs this version below DESTDIR, beside those that are there: their sessions go on with the files they began with.
#   PREFIX/lib/simpler/VERSION   a virtual environment with the package and what it needs
#   PREFIX/bin                   simplerd and simplerctl, which are switched over at once
#   PREFIX/lib, else /etc        the units, sysusers.d, tmpfiles.d: where systemd looks for them
#   PREFIX/share                 completion, manual pages
# `make install` calls it with PIP set. PIP_INSTALL_FLAGS: further options for pip install.
set -euo pipefail
umask 022 # a service user is to read it, whatever root's own is
destdir=${DESTDIR:-} prefix=${PREFIX:-/usr/local} python=${PYTHON:-python3}
case $prefix in /usr | /usr/local) base=$prefix/lib ;; /*) base=/etc ;; *)
    echo "PREFIX is $prefix; expected an absolute path" >&2
    exit 2
    ;;
esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# From a copy of just the sources: what an earlier build left in build/ would be packed, too.
mkdir "$work/source"
cp -r client daemon native cffi_build systemd pyproject.toml README.md LICENSE "$work/source"
echo "building"
"$PIP" wheel --quiet --disable-pip-version-check --no-build-isolation --no-deps --wheel-dir "$work" "$work/source"
wheel=$(echo "$work"/*.whl)
version=$(basename "$wheel" | cut -d- -f2)
home=$prefix/lib/simpler/$version

echo "installing $destdir$home"
fresh=$destdir$home.new
rm -rf "$fresh"
"$python" -m venv --without-pip "$fresh"
# shellcheck disable=SC2086
"$PIP" --python "$fresh/bin/python" install --quiet --disable-pip-version-check --no-compile ${PIP_INSTALL_FLAGS:-} "$wheel"
find "$fresh/bin" -type f ! -name simplerd ! -name simplerctl -delete # activation, and commands of what it needs
sed -i "1s|^#!$fresh/|#!$home/|" "$fresh/bin/simplerd" "$fresh/bin/simplerctl"
sed -i '/^command = /d' "$fresh/pyvenv.cfg" # which names DESTDIR
"$fresh/bin/python" -m compileall -q -j 0 -s "$fresh" -p "$home" "$fresh/lib"
old=$destdir$home.old # of the same version: a daemon of it may be started at any moment
rm -rf "$old"
[ ! -e "$destdir$home" ] || mv -T "$destdir$home" "$old"
mv -T "$fresh" "$destdir$home"
rm -rf "$old"

mkdir -p "$destdir$prefix/bin"
for command in simplerd simplerctl; do
    ln -s "$home/bin/$command" "$work/$command"
    mv -T "$work/$command" "$destdir$prefix/bin/$command"
done

"$destdir$home/bin/python" - "$destdir" "$base" "$prefix/bin" <<'PROGRAM'
import shutil, subprocess, sys
from pathlib import Path
from simplerctl.service_files import system_files, version_of
destdir, base, commands = sys.argv[1:]
said = subprocess.run(["systemctl", "--version"], stdout=subprocess.PIPE, text=True).stdout if shutil.which("systemctl") else ""
for path, text in system_files(Path(commands), version_of(said) if said else 0, Path(base)).items():
    target = Path(destdir + str(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
PROGRAM

share=$destdir$prefix/share
complete() { mkdir -p "$share/$2" && "$(dirname "$PIP")/simplerctl" completion "$1" >"$share/$2/$3"; }
complete bash bash-completion/completions simplerctl
complete zsh zsh/site-functions _simplerctl
complete fish fish/vendor_completions.d simplerctl.fish
"$(dirname "$PIP")/python" -m cffi_build.man_pages "$work/man"
for page in "$work"/man/*; do install -Dm644 -t "$share/man/man${page##*.}" "$page"; done

[ -n "$destdir" ] || echo "
To start it, now and at every boot:
  systemd-sysusers simplerd.conf && systemd-tmpfiles --create simplerd.conf
  systemctl daemon-reload && systemctl enable --now simplerd"
