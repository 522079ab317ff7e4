# SPDX-License-Identifier: Apache-2.0
"""What was left out of a recording because it cannot be trusted: said, never silent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path


@dataclass(frozen=True)
class Skip:
    """One stretch of one file that was left out.

    Attributes:
        file: its name.
        at: offset of the first byte left out.
        size: bytes; 0 where a database does not say.
        why: in a few words.
        messages: how many it held, of the topics asked for; None where nothing says.
        after_ns: receive stamp of the last message before it; 0 when there is none.
        before_ns: receive stamp of the first message behind it, or the end that an index names.
        at_end: it reaches to the end of the file, as a killed recorder leaves it.
    """

    file: str
    at: int
    size: int
    why: str
    messages: int | None = None
    after_ns: int = 0
    before_ns: int = 0
    at_end: bool = False

    @property
    def seconds(self) -> float | None:
        """Time without messages; None where a neighbour is missing."""
        if not self.after_ns or not self.before_ns:
            return None
        return max(0, self.before_ns - self.after_ns) / 1e9


@dataclass
class Damage:
    """Everything that was left out while reading; empty, and False, for a whole recording.

    It grows while messages are read and is complete when the last one came out.
    """

    skips: list[Skip] = field(default_factory=list)
    _missing: dict[str, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.skips)

    def skip(self, skip: Skip) -> None:
        """Add a stretch, or make the one before longer that ends where this one begins."""
        last = self.skips[-1] if self.skips else None
        if (
            last is not None
            and last.file == skip.file
            and skip.size
            and last.at + last.size == skip.at
            and (last.messages is None) == (skip.messages is None)
        ):
            count = (last.messages or 0) + (skip.messages or 0)
            self.skips[-1] = replace(
                last,
                size=last.size + skip.size,
                messages=None if skip.messages is None else count,
                after_ns=last.after_ns or skip.after_ns,
                before_ns=skip.before_ns,
                at_end=skip.at_end,
            )
        else:
            self.skips.append(skip)

    def settle(
        self, path: Path, expected: Mapping[str, int], read: Mapping[str, int], source: str
    ) -> None:
        """Count what a file should have held, by topic, against what was read of it."""
        missing = sum(max(0, count - read.get(topic, 0)) for topic, count in expected.items())
        self._missing[path.name] = missing
        if missing and not any(skip.file == path.name for skip in self.skips):
            why = f'{source} counts more messages than there are'
            self.skips.append(Skip(path.name, path.stat().st_size, 0, why, missing, at_end=True))

    def settled(self, path: Path) -> bool:
        """Say whether the file's messages were counted already."""
        return path.name in self._missing

    def add(self, other: Damage) -> None:
        """Take over what another one holds."""
        self.skips += other.skips
        self._missing |= other._missing

    @property
    def messages(self) -> int:
        """Messages lost, as far as they are known."""
        known = sum(s.messages or 0 for s in self.skips if s.file not in self._missing)
        return known + sum(self._missing.values())

    @property
    def uncounted(self) -> int:
        """Stretches of which nothing says how many messages they held."""
        return sum(s.messages is None and s.file not in self._missing for s in self.skips)

    @property
    def size(self) -> int:
        """Bytes left out."""
        return sum(skip.size for skip in self.skips)

    @property
    def seconds(self) -> float:
        """Time without messages, as far as it is known."""
        return sum(skip.seconds or 0.0 for skip in self.skips)

    @property
    def untimed(self) -> int:
        """Stretches of which nothing says how long they lasted."""
        return sum(skip.seconds is None for skip in self.skips)

    def __str__(self) -> str:
        if not self.skips:
            return 'nothing was left out'
        count = len(self.skips)
        more = f' and an unknown number in {self.uncounted} of them' if self.uncounted else ''
        untimed = f' and an unknown time in {self.untimed} of them' if self.untimed else ''
        places = [f'{s.file} at byte {s.at}: {s.why}' for s in self.skips[:3]]
        rest = f'; {count - 3} more' if count > 3 else ''
        return (
            f'left out {count} {"stretch" if count == 1 else "stretches"}: '
            f'{self.messages} messages{more}, {self.seconds:.3f} s{untimed}, '
            f'{self.size} bytes ({"; ".join(places)}{rest})'
        )
