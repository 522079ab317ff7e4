# SPDX-License-Identifier: Apache-2.0
"""``policies/``: every policy that drove the robot, once, named by its digest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

_KEPT_UNUSED = 2


class PolicyShelf:
    """Keeps what was executed and the newest few that may yet be.

    Args:
        folder: ``<digest>.safetensors`` files; the trainer writes there.
        candidates: other files that may hold a policy which drives the robot.
        warn: told once about a policy that is nowhere to be found.
    """

    def __init__(
        self,
        folder: Path,
        candidates: Iterable[Path],
        warn: Callable[[str], None],
    ) -> None:
        self.folder = folder
        self._candidates = [path for path in candidates if path.is_file()]
        self._warn = warn
        folder.mkdir(parents=True, exist_ok=True)
        # What an earlier session left was executed, for all we know.
        self.executed = {path.stem for path in folder.glob('*.safetensors')}
        self._unused: list[str] = []

    def look_in(self, folder: Path) -> None:
        """Take also the policies in `folder` for such that may drive the robot."""
        self._candidates += sorted(folder.glob('*.safetensors'))

    def drove(self, digest: str) -> None:
        """Note that a policy planned a chunk, and see that its file is here."""
        if digest in self.executed:
            return
        self.executed.add(digest)
        if digest in self._unused:
            self._unused.remove(digest)
        path = self.folder / f'{digest}.safetensors'
        if path.exists():
            return
        for candidate in self._candidates:
            if policy_digest(candidate) == digest:
                part = path.with_suffix('.part')
                shutil.copyfile(candidate, part)
                part.replace(path)
                return
        self._warn(
            f'policy {digest[:12]} drives the robot but its file is not known here; copy it to '
            f'{path}, or its chunks cannot be computed again'
        )

    def made(self, digest: str) -> None:
        """Note a new policy, and remove older ones that never drove the robot."""
        if digest in self.executed or digest in self._unused:
            return
        self._unused.append(digest)
        while len(self._unused) > _KEPT_UNUSED:
            (self.folder / f'{self._unused.pop(0)}.safetensors').unlink(missing_ok=True)


def policy_digest(path: Path) -> str:
    """Return the digest that a policy file states, '' if it is none. Reads only its header."""
    try:
        with path.open('rb') as stream:
            size = int.from_bytes(stream.read(8), 'little')
            header = json.loads(stream.read(min(size, 1 << 20)))
        return str(header['__metadata__']['digest'])
    except (OSError, ValueError, KeyError, TypeError):
        return ''
