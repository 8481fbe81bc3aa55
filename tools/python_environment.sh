#!/bin/sh
# Makes the Python environment and installs this project into it, editable, with all extras a developer needs.
# PYTHON: the interpreter. VENV: where the environment lies.
set -eu

python="${PYTHON:-python3}"
venv="${VENV:-.venv}"
version="$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')" || {
    echo "$python does not run. Run: sudo apt-get install --no-install-recommends python3 python3-venv" >&2
    exit 1
}
case "$version" in
3.10 | 3.11 | 3.12 | 3.13) ;;
*)
    echo "$python is Python $version; expected 3.10 to 3.13, for which MuJoCo 3.3.0 has wheels." >&2
    echo "Name another one: make PYTHON=python3.12 ..." >&2
    exit 1
    ;;
esac

echo "installing the Python environment into $venv (Python $version)"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip="$venv/bin/python -m pip install --quiet --disable-pip-version-check"
# A new pip first: that of Python 3.10 tries old releases for hours before it finds versions that fit together. Then torch
# alone: whichever build this machine's package index offers for it is kept.
{
    $pip --upgrade 'pip>=25' &&
        $pip torch==2.13.0 &&
        $pip --editable '.[policy,bridge,cameras,recording,signing,deploy,fleet,sim,train,orbax,openpi,dev,docs]' &&
        # openpi's own client, for the tests: it asks for numpy below 2, and works with any.
        $pip --no-deps openpi-client==0.1.2 &&
        # labmaze, which only the mazes of dm_control need, has no wheels for 3.13; see pyproject.toml.
        { [ "$version" != 3.13 ] || $pip --no-deps gym-aloha==0.1.5 dm_control==1.0.28; }
} || {
    echo "The installation stopped at the message above (no network? no space?). Run the same command again;" >&2
    echo "from scratch: rm -rf $venv" >&2
    exit 1
}
