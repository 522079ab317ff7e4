# SPDX-License-Identifier: Apache-2.0
"""What Fast DDS leaves in /dev/shm when a process is killed, and its removal.

Fast DDS makes, for each participant and each port, ``fastrtps_<id>``, ``fastrtps_<id>_el`` (a lock
file) and ``sem.fastrtps_<id>_mutex``; newer ones say ``fastdds``. A process that ends in order
removes them; SIGKILL does not let it. Nobody else ever does.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections import defaultdict
from pathlib import Path

SHM = Path('/dev/shm')
_NAME = re.compile(r'^(?:sem\.)?((?:fastrtps|fastdds)_.+?)(?:_el|_mutex)?$')


def files_in_use() -> set[str]:
    """Names of the files in /dev/shm that a living process has mapped or open."""
    used: set[str] = set()
    prefix = f'{SHM}/'
    for process in Path('/proc').glob('[0-9]*'):
        try:
            for line in (process / 'maps').read_text(errors='replace').splitlines():
                position = line.find(prefix)
                if position >= 0:
                    used.add(line[position + len(prefix) :].removesuffix(' (deleted)'))
            for handle in (process / 'fd').iterdir():
                target = os.readlink(handle)
                if target.startswith(prefix):
                    used.add(target[len(prefix) :].removesuffix(' (deleted)'))
        except OSError:  # ended meanwhile, or somebody else's: then so are its files
            continue
    return used


def orphans(since_s: float = 0.0) -> dict[str, list[Path]]:
    """Return the files of Fast DDS that no living process uses, by segment.

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
    used = {match[1] for name in files_in_use() if (match := _NAME.match(name))}
    return {segment: paths for segment, paths in groups.items() if segment not in used}


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
