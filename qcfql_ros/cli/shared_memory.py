# SPDX-License-Identifier: Apache-2.0
"""What Fast DDS leaves in /dev/shm when a process is killed, and its removal.

Fast DDS makes, for each participant and each port, ``fastrtps_<id>``, ``fastrtps_<id>_el`` (a lock
file) and ``sem.fastrtps_<id>_mutex``; newer ones say ``fastdds``. A process that ends in order
removes them; SIGKILL does not let it. Nobody else ever does.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections import defaultdict
from pathlib import Path

SHM = Path('/dev/shm')
_NAME = re.compile(r'^(?:sem\.)?((?:fastrtps|fastdds)_.+?)(?:_el|_mutex)?$')


def files_in_use() -> tuple[set[str], set[str]]:
    """Names of the files in /dev/shm that living processes have open, and have mapped."""
    opened: set[str] = set()
    mapped: set[str] = set()
    prefix = f'{SHM}/'
    for process in Path('/proc').glob('[0-9]*'):
        try:
            for line in (process / 'maps').read_text(errors='replace').splitlines():
                position = line.find(prefix)
                if position >= 0:
                    mapped.add(line[position + len(prefix) :].removesuffix(' (deleted)'))
            for handle in (process / 'fd').iterdir():
                with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                    target = os.readlink(handle)
                    if target.startswith(prefix):
                        opened.add(target[len(prefix) :].removesuffix(' (deleted)'))
        except OSError:  # ended meanwhile, or somebody else's: then so are its files
            continue
    return opened, mapped


def orphans(since_s: float = 0.0) -> dict[str, list[Path]]:
    """Return the files of Fast DDS whose maker is gone, by segment.

    The maker keeps the lock file open. That others have a segment mapped does not count: peers of
    a killed process do for a while, and do not mind its removal.

    Args:
        since_s: leave alone what was last written before this time (seconds since the epoch).
    """
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in SHM.iterdir() if SHM.is_dir() else ():
        match = _NAME.match(path.name)
        try:
            if match and path.stat().st_uid == os.getuid() and path.stat().st_mtime >= since_s:
                groups[match[1]].append(path)
        except FileNotFoundError:
            continue
    opened, mapped = files_in_use()

    def is_used(paths: list[Path]) -> bool:
        names = {path.name for path in paths}
        locks = {name for name in names if name.endswith('_el')}
        return bool(locks & opened if locks else names & (opened | mapped))

    return {segment: paths for segment, paths in groups.items() if not is_used(paths)}


def remove_orphans(since_s: float = 0.0) -> list[str]:
    """Remove what `orphans` finds; return the names removed.

    The lock file is held meanwhile, so that a process starting just now takes another port.
    """
    removed = []
    for paths in orphans(since_s).values():
        lock = next((path for path in paths if path.name.endswith('_el')), None)
        try:
            handle = os.open(lock, os.O_RDWR) if lock else None
        except FileNotFoundError:
            handle = None
        try:
            if handle is not None:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for path in paths:
                path.unlink(missing_ok=True)
                removed.append(path.name)
        except BlockingIOError:  # somebody took it since we looked
            continue
        finally:
            if handle is not None:
                os.close(handle)
    return sorted(removed)
