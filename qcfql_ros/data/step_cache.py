# SPDX-License-Identifier: Apache-2.0
"""The steps of a recording, kept beside it so that they need not be decoded again.

``<bag>.qcfql_cache/<contract>.steps`` holds what one contract makes of one bag. It is derived: it
may be deleted at any time and is made again when the bag, its labels, the contract or this
program changed. It counts only where all of these and its own checksums are right.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import hashlib
import mmap
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from qcfql_ros.contract.schema import Contract
from qcfql_ros.data.bag_folder import beside
from qcfql_ros.data.bag_metadata import ACTIVE
from qcfql_ros.data.damage import Damage, Skip
from qcfql_ros.data.labels import labels_path
from qcfql_ros.data.step_file import StepFile
from qcfql_ros.data.step_sink import StepSink

CACHE_SUFFIX = '.qcfql_cache'
_ENDS = 4096  # bytes looked at on both ends of a bag's file


class StepCache:
    """The kept steps of some files of a recording under one contract.

    Args:
        bag: the recording.
        paths: the files of it that are read, in order.
        contract: what the messages mean.
        recorded: what else the steps depend on, of what the bag says of itself.
        name: of the files, where they are not all of the recording.

    Attributes:
        path: of the file.
        why_not: why `read` found nothing to use; empty where nothing was kept yet.
    """

    def __init__(
        self,
        bag: Path,
        paths: Sequence[Path],
        contract: Contract,
        recorded: Sequence[str],
        name: str = '',
    ) -> None:
        self.path = _path(bag, contract, name)
        self.why_not = ''
        self._bag, self._paths = bag, list(paths)
        self._contract, self._recorded = contract, list(recorded)
        self._key = self._identity()

    def read(self) -> StepFile | None:
        """Return the kept steps, None where there are none that can be used."""
        try:
            with self.path.open('rb') as stream:
                kept = StepFile(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            self.why_not = f'the kept steps are damaged: {error}'
            return None
        found = kept.about.get('of')
        if found != self._key:
            found = found if isinstance(found, dict) else {}
            changed = [name for name, value in self._key.items() if found.get(name) != value]
            self.why_not = f'changed since: {", ".join(changed)}'
            return None
        return kept

    def sink(self, movable: bool = True) -> StepSink:
        """Return where to put the steps; `finish` is to be told `about`."""
        return StepSink(self.path, movable)

    def still_true(self) -> bool:
        """Say whether the recording is as it was when this object was made."""
        return self._identity() == self._key

    def about(self, counters: Counter[str], damage: Damage) -> dict[str, Any]:
        """Return what is kept with the steps."""
        return {'of': self._key, **described(counters, damage)}

    def _identity(self) -> dict[str, Any]:
        """Return all that the steps depend on, as JSON knows it."""
        return {
            'program': program_digest(),
            'contract': self._contract.hash,
            'custom data': self._recorded,
            'labels': _labels_digest(self._bag),
            'recording': [_file_identity(path) for path in self._paths],
        }


def forget_parts(bag: Path, contract: Contract, names: Iterable[str]) -> None:
    """Remove what is kept of other parts of the bag than these."""
    wanted = {_path(bag, contract, name) for name in names}
    everything = _path(bag, contract, '')
    for path in everything.parent.glob(f'{glob.escape(everything.stem)}.*.steps'):
        if path not in wanted:
            with contextlib.suppress(OSError):
                path.unlink()


def is_being_written(bag: Path, paths: Sequence[Path]) -> bool:
    """Say whether a recorder writes to the bag, or left it without closing its last file."""
    named = any(path.name.endswith(ACTIVE) for path in paths)
    return named or (bag.is_dir() and any(bag.glob(f'*{ACTIVE}')))


def described(counters: Counter[str], damage: Damage) -> dict[str, Any]:
    """Return what was counted and left out, as JSON knows it."""
    return {'counters': dict(counters), 'damage': dataclasses.asdict(damage)}


def counted(kept: StepFile) -> tuple[Counter[str], Damage]:
    """Return what `described` was given."""
    counters, damage = kept.about['counters'], kept.about['damage']
    skips = [Skip(**skip) for skip in damage['skips']]
    return Counter(counters), Damage(skips, damage['_missing'])


@cache
def program_digest() -> str:
    """Return 16 hex digits over the sources that make steps of messages."""
    digest = hashlib.blake2b(digest_size=8)
    root = Path(__file__).parent.parent
    for path in sorted([*(root / 'contract').glob('*.py'), *(root / 'data').glob('*.py')]):
        digest.update(path.name.encode() + b'\0' + path.read_bytes() + b'\0')
    return digest.hexdigest()


def _path(bag: Path, contract: Contract, name: str) -> Path:
    of = contract.name.replace('/', '_')
    return beside(bag, CACHE_SUFFIX) / (f'{of}.{name}.steps' if name else f'{of}.steps')


def _labels_digest(bag: Path) -> str:
    try:
        data = labels_path(bag).read_bytes()
    except FileNotFoundError:
        return ''
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _file_identity(path: Path) -> list[Any]:
    with path.open('rb') as stream:
        about = os.fstat(stream.fileno())
        crc = zlib.crc32(stream.read(_ENDS))
        stream.seek(max(0, about.st_size - _ENDS))
        crc = zlib.crc32(stream.read(_ENDS), crc)
    return [path.name, about.st_size, about.st_mtime_ns, crc]
