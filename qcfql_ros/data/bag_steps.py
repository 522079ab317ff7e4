# SPDX-License-Identifier: Apache-2.0
"""One recording as steps: from what was kept beside it, else decoded once and kept."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from qcfql_ros.contract.schema import Contract
from qcfql_ros.data.bag_folder import find_bags, split_paths
from qcfql_ros.data.bag_metadata import CONTRACT_HASH, NAMESPACE
from qcfql_ros.data.damage import Damage
from qcfql_ros.data.dataset import Progress, load_blocks
from qcfql_ros.data.reader import bag_custom_data
from qcfql_ros.data.step_block import StepBlock
from qcfql_ros.data.step_cache import StepCache, counted, described, is_being_written
from qcfql_ros.data.step_counters import happened, left_out
from qcfql_ros.data.step_file import StepFile
from qcfql_ros.data.step_sink import StepSink
from qcfql_ros.data.teleoperation import labels_note
from qcfql_ros.errors import BagError


class BagSteps:
    """The steps of one recording.

    Args:
        path: the recording.
        contract: what its messages mean.
        cache: look for steps kept beside the bag, and keep them there.
        part: only some of its files, which nobody writes to any more, and what to call them.

    Attributes:
        path: the recording.
        bytes: of its files.
        from_cache: nothing had to be decoded.
        counters: as the assembler counts; complete after `load`.
        damage: what was left out of the bag; complete after `load`.
        notes: what was unusual, a line each.

    Raises:
        BagError: the bag is missing or cannot be read, was recorded under another contract, or
            has a topic with another type than the contract's.
    """

    def __init__(
        self,
        path: Path,
        contract: Contract,
        *,
        cache: bool = True,
        part: tuple[slice, str] | None = None,
    ) -> None:
        splits, name = part or (slice(None), '')
        self.path = path
        self.counters: Counter[str] = Counter()
        self.damage = Damage()
        self.notes: list[str] = []
        self._progress: Progress | None = None
        self._cache: StepCache | None = None
        self._kept: StepFile | None = None
        self._seconds = 0.0
        if note := labels_note(path, contract):
            self.notes.append(note)
        paths = split_paths(path)[splits]
        self.bytes = _size(paths)
        if cache and (part is not None or not is_being_written(path, paths)):
            self._cache = self._cache_of(paths, contract, name)
        if self._cache is not None:
            self._kept = self._cache.read()
            if self._cache.why_not:
                self.notes.append(f'{path}: decoded again: {self._cache.why_not}')
        self.from_cache = self._kept is not None
        self._decoded: Iterable[StepBlock] = ()
        if self._kept is not None:
            self.counters, self.damage = counted(self._kept)
        else:
            self._decoded = load_blocks(
                path,
                contract,
                self._tell,
                splits=splits,
                counters=self.counters,
                damage=self.damage,
            )

    def _cache_of(self, paths: Sequence[Path], contract: Contract, name: str) -> StepCache:
        custom = bag_custom_data(self.path)
        recorded = [custom.get(CONTRACT_HASH, ''), custom.get(NAMESPACE, '')]
        try:
            return StepCache(self.path, paths, contract, recorded, name)
        except OSError as error:
            raise BagError(f'cannot read {self.path}: {error.strerror or error}') from error

    def load(self, progress: Progress | None = None) -> None:
        """Decode and keep the steps, if that was not done before.

        Raises:
            BagError: a file cannot be read, or what was written does not come back.
        """
        if self._kept is not None:
            return
        started_s, self._progress = time.monotonic(), progress
        sink = StepSink(None) if self._cache is None else self._cache.sink()
        for _ in self._through(sink):
            pass
        self._seconds = time.monotonic() - started_s

    def stream(self) -> Iterator[StepBlock]:
        """Yield the steps, while they are decoded where they have to be; once."""
        if self._kept is not None:
            yield from self._kept.blocks()
        elif self._cache is None:
            yield from self._decoded
        else:
            yield from self._through(self._cache.sink(movable=False))

    def _through(self, sink: StepSink) -> Iterator[StepBlock]:
        """Yield what is decoded, and keep it.

        Raises:
            BagError: a file cannot be read, or what was written does not come back.
        """
        try:
            for block in self._decoded:
                sink.add(block)
                yield block
            if self._cache is None:
                self._kept = sink.finish(described(self.counters, self.damage))
                return
            unchanged = self._cache.still_true()
            about = self._cache.about(self.counters, self.damage)
            self._kept = sink.finish(about, keep=unchanged)
            trouble = sink.trouble if unchanged else 'the recording changed meanwhile'
            if trouble:
                self.notes.append(f'{self.path}: steps not kept beside it: {trouble}')
        finally:
            sink.close()

    def _tell(self, part: float) -> None:
        if self._progress is not None:
            self._progress(part)

    def blocks(self) -> Iterator[StepBlock]:
        """Yield the steps, as often as wanted, after `load`."""
        yield from self._file.blocks()

    @property
    def _file(self) -> StepFile:
        assert self._kept is not None, 'load() comes first'
        return self._kept

    @property
    def steps(self) -> int:
        """Steps in it, after `load`."""
        return self._file.steps

    @property
    def segments(self) -> int:
        """Segments in it, after `load`."""
        return self._file.segments

    def remarks(self) -> list[str]:
        """Return what a person should know of it, a line each, after `load`."""
        return [*self.notes, *([f'{self.path}: {self.damage}'] if self.damage else [])]

    def __str__(self) -> str:
        """Say in a line what is in it, what is not, and where it came from; after `load`."""
        out, more = left_out(self.counters), happened(self.counters)
        kept = self._file
        came = 'kept from before' if self.from_cache else f'decoded in {self._seconds:.1f} s'
        return (
            f'{self.path}: {kept.steps} steps, {kept.episodes} episodes, {kept.segments} segments '
            f'of {self.counters["messages"]} messages ({came})'
            + (f'; not used: {out}' if out else '')
            + (f'; counted: {more}' if more else '')
        )


def open_bags(
    paths: str | Path | Iterable[str | Path], contract: Contract, *, cache: bool = True
) -> list[BagSteps]:
    """Return the recordings at `paths`, each one or a folder of some, fit to be loaded.

    Raises:
        BagError: some are unfit; names each of them.
    """
    found, unfit = [], []
    for path in find_bags(paths):
        try:
            found.append(BagSteps(path, contract, cache=cache))
        except BagError as error:
            unfit.append(str(error))
    if unfit:
        raise BagError('; '.join(unfit))
    return found


def load_bags(bags: Sequence[BagSteps], progress: Progress | None = None) -> None:
    """Load recordings one after the other.

    Args:
        bags: of `open_bags`.
        progress: told how far it is, by bytes of the files.

    Raises:
        BagError: one cannot be read, or some hold no step; names each of those.
    """
    total, done = max(1, sum(bag.bytes for bag in bags if not bag.from_cache)), 0
    for bag in bags:

        def tell(part: float, before: int = done, size: int = bag.bytes) -> None:
            if progress is not None:
                progress(min(1.0, (before + part * size) / total))

        bag.load(tell)
        done += 0 if bag.from_cache else bag.bytes
    empty = [f'{bag}; {bag.damage}' if bag.damage else str(bag) for bag in bags if not bag.steps]
    if empty:
        raise BagError(f'no step to learn from in {"; ".join(empty)}')


def _size(paths: Sequence[Path]) -> int:
    return sum(path.stat().st_size for path in paths if path.exists())
