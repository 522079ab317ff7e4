# SPDX-License-Identifier: Apache-2.0
"""Make `.venv` with everything that the demo, or the tests, need: `setup_env.py demo|test`.

Runs on any Python from 3.8; looks for a Python 3.12 or 3.13 to build the environment with. A
second call with nothing changed returns at once. PyPI is all it needs: rclpy comes from wheels.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / '.venv'
EXTRAS = {
    'demo': ['learn', 'sim', 'demo', 'ros-jazzy'],
    'test': ['learn', 'sim', 'demo', 'ros-jazzy', 'lerobot', 'test'],
}
WANTED = [(3, 12), (3, 13)]
NO_PYTHON = """\
setup: found no Python 3.12 or 3.13, with which the ROS 2 Jazzy wheels work. Looked for python3.12,
python3.13 and python3 on PATH, for pyenv's versions, and for uv's. Install one, for example
  apt install python3.12 python3.12-venv     (Ubuntu 24.04 has it)
  pyenv install 3.12
  uv python install 3.12
or name one: make setup QCFQL_PYTHON=/path/to/python3.12"""


def say(text):
    print(f'setup: {text}', flush=True)


def version_of(python):
    """Return (major, minor) of an interpreter that works and can make environments, else None."""
    code = 'import sys, venv, ensurepip; print(*sys.version_info[:2])'
    try:
        done = subprocess.run(
            [str(python), '-c', code],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=60,
        )
        return tuple(int(word) for word in done.stdout.split()) if done.returncode == 0 else None
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None


def candidates():
    """Yield interpreters to try, the likeliest first."""
    for major, minor in WANTED:
        yield from filter(None, [shutil.which(f'python{major}.{minor}')])
    yield from filter(None, [shutil.which('python3'), shutil.which('python')])
    homes = [os.environ.get('PYENV_ROOT'), os.path.expanduser('~/.pyenv')]
    for major, minor in WANTED:
        for home in filter(None, homes):
            folders = sorted((Path(home) / 'versions').glob(f'{major}.{minor}*'), reverse=True)
            yield from (folder / 'bin' / 'python' for folder in folders)
        yield Path(f'/usr/bin/python{major}.{minor}')
        yield Path(f'/usr/local/bin/python{major}.{minor}')
    uv = shutil.which('uv')
    if uv:
        subprocess.run([uv, 'python', 'install', '3.12'], stderr=subprocess.DEVNULL)
        found = subprocess.run([uv, 'python', 'find', '3.12'], stdout=subprocess.PIPE)
        yield from filter(None, [found.stdout.decode().strip()])


def find_python():
    """Return a suitable interpreter; exit with status 2 and what to do when there is none."""
    named = os.environ.get('QCFQL_PYTHON')
    for python in [named] if named else candidates():
        if version_of(python) in WANTED:
            return str(python)
    if named:
        print(f'setup: QCFQL_PYTHON={named} is not a working Python 3.12 or 3.13', file=sys.stderr)
    else:
        print(NO_PYTHON, file=sys.stderr)
    sys.exit(2)


def stamp_of(which):
    """Return the digest of all that decides what the environment holds."""
    digest = hashlib.sha256(f'{ROOT} {",".join(EXTRAS[which])}'.encode())
    for name in ('setup.py', 'setup.cfg', 'tools/constraints.txt', 'tools/setup_env.py'):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def is_ready(which):
    """Whether the environment holds what `which` needs; the tests' holds what the demo needs."""
    return (VENV / 'bin' / 'python').exists() and any(
        (VENV / f'.ready-{name}').exists()
        and (VENV / f'.ready-{name}').read_text() == stamp_of(name)
        for name in {which, 'test'}
    )


def install_environment():
    """Return the variables that uv needs here: a cache it can write, links that work."""
    variables = dict(os.environ)
    variables.setdefault('UV_HTTP_TIMEOUT', '300')
    variables.pop('VIRTUAL_ENV', None)
    if 'UV_CACHE_DIR' not in variables:
        home = variables.get('XDG_CACHE_HOME') or variables.get('HOME') or ''
        if not (home and os.path.isdir(home) and os.access(home, os.W_OK)):
            variables['UV_CACHE_DIR'] = str(VENV / '.uv-cache')
        elif os.stat(home).st_dev != os.stat(ROOT).st_dev:
            variables.setdefault('UV_LINK_MODE', 'copy')
    return variables


def install(which):
    """Install the package, editable, with the extras; with uv, or with pip where uv fails."""
    python = str(VENV / 'bin' / 'python')
    what = ['-c', str(ROOT / 'tools' / 'constraints.txt'), '-e']
    what.append(f'{ROOT}[{",".join(EXTRAS[which])}]')
    variables = install_environment()
    pip = [python, '-m', 'pip', '--disable-pip-version-check', '-q', 'install']
    uv = VENV / 'bin' / 'uv'
    if uv.exists() or subprocess.run([*pip, 'uv'], env=variables).returncode == 0:
        uv_install = [str(uv), 'pip', 'install', '-q', '--python', python]
        if subprocess.run([*uv_install, *what], env=variables).returncode == 0:
            return
        say('uv could not; trying pip, which takes longer')
    if subprocess.run([*pip, *what], env=variables).returncode != 0:
        print('setup: the installation failed; the lines above say why', file=sys.stderr)
        sys.exit(2)


def main():
    which = sys.argv[1] if len(sys.argv) == 2 else ''
    if which not in EXTRAS:
        print(f'usage: setup_env.py {"|".join(EXTRAS)}', file=sys.stderr)
        return 2
    if is_ready(which):
        return 0
    with open(ROOT / '.setup.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_ready(which):
            return 0
        start = time.monotonic()
        if version_of(VENV / 'bin' / 'python') not in WANTED:
            python = find_python()
            say(f'making {VENV} with {python}')
            shutil.rmtree(VENV, ignore_errors=True)
            subprocess.run([python, '-m', 'venv', str(VENV)], check=True)
        say(f'installing what the {which} needs (a few minutes the first time)')
        install(which)
        (VENV / f'.ready-{which}').write_text(stamp_of(which))
        say(f'done in {time.monotonic() - start:.0f} s')
    return 0


if __name__ == '__main__':
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
