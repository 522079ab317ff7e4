# SPDX-License-Identifier: Apache-2.0
"""Recordings as training data: the bag through the assembler, the same steps as live."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from operator import itemgetter
from pathlib import Path

from qcfql_ros.contract.schema import Contract
from qcfql_ros.data.assembler import Event
from qcfql_ros.data.bag_file import Message
from qcfql_ros.data.bag_folder import find_bags
from qcfql_ros.data.bag_metadata import CONTRACT, CONTRACT_HASH, NAMESPACE
from qcfql_ros.data.bulk_assembler import BulkAssembler
from qcfql_ros.data.collection import collection_held_off
from qcfql_ros.data.damage import Damage
from qcfql_ros.data.labels import Labels, load_labels
from qcfql_ros.data.reader import BagReader, bag_custom_data
from qcfql_ros.data.session_mark import SESSION_TYPE, session_topic
from qcfql_ros.data.step_block import StepBlock
from qcfql_ros.data.teleoperation import (
    recorded_by_others,
    teleoperation_blocks,
    teleoperation_reader,
)
from qcfql_ros.errors import BagError

# progress(fraction done in [0, 1])
Progress = Callable[[float], None]
_EVERY_S = 0.5
_MESSAGES = 1 << 15  # assembled at once
_BYTES = 1 << 24
_data = itemgetter(3)


def load_dataset(
    paths: str | Path | Iterable[str | Path],
    contract: Contract,
    progress: Progress | None = None,
    *,
    any_contract: bool = False,
    splits: slice = slice(None),
    include_open: bool = False,
    counters: Counter[str] | None = None,
    damage: Damage | None = None,
) -> Iterator[Event]:
    """Yield the steps and segment ends of one or several bags, one by one; see `load_blocks`."""
    blocks = load_blocks(
        paths,
        contract,
        progress,
        any_contract=any_contract,
        splits=splits,
        include_open=include_open,
        counters=counters,
        damage=damage,
    )
    return chain.from_iterable(block.events() for block in blocks)


def load_blocks(
    paths: str | Path | Iterable[str | Path],
    contract: Contract,
    progress: Progress | None = None,
    *,
    any_contract: bool = False,
    splits: slice = slice(None),
    include_open: bool = False,
    counters: Counter[str] | None = None,
    damage: Damage | None = None,
) -> Iterator[StepBlock]:
    """Yield the steps and segment ends of one or several bags, many at a time.

    What can be refused is refused by this call, not by the first step.

    Bags that others recorded make steps by the contract's `recordings`, and by the labels beside
    them where there are some.

    Args:
        paths: recordings, or folders of recordings.
        contract: what the messages mean.
        progress: told about twice a second how far it is, by bytes of the files.
        any_contract: take bags that were recorded under another contract, or that name none.
        splits: only these files of each bag, in order.
        include_open: also the file that a recorder is writing at this moment.
        counters: the assemblers' counters are added to it, what was dropped included.
        damage: what was left out of the bags is added to it.

    Raises:
        BagError: a bag is missing or cannot be read, was recorded under another contract, or has
            a topic with another type than the contract's.
    """
    folders = find_bags(paths)
    foreign = {
        folder: load_labels(folder)
        for folder in folders
        if recorded_by_others(folder, include_open=include_open)
    }
    if not any_contract:
        for folder in folders:
            if folder not in foreign:
                check_contract(folder, contract)
    bags = []
    for folder in folders:
        if folder in foreign:
            labels = foreign[folder]
            bags.append(
                teleoperation_reader(
                    folder, contract, labels, include_open=include_open, splits=splits
                )
            )
            continue
        namespace = bag_custom_data(folder).get(NAMESPACE, '')
        topics = contract.recorded_topics(namespace)
        topics[session_topic(namespace)] = SESSION_TYPE
        bag = BagReader(folder, topics, include_open=include_open, splits=splits)
        bag.channels()  # their types are checked
        bags.append(bag)
    return _blocks(bags, contract, foreign, progress, counters, damage)


def _blocks(
    bags: list[BagReader],
    contract: Contract,
    foreign: Mapping[Path, Labels | None],
    progress: Progress | None,
    counters: Counter[str] | None,
    damage: Damage | None,
) -> Iterator[StepBlock]:
    sizes = [bag.bytes for bag in bags]
    total = max(1, sum(sizes))
    done, next_s = 0, time.monotonic() + _EVERY_S

    def tell(bytes_read: int) -> None:
        nonlocal next_s
        now_s = time.monotonic()
        if progress is not None and now_s >= next_s:
            part = min(1.0, (done + bytes_read) / total)
            next_s = now_s + _EVERY_S
            progress(part)

    for bag, size in zip(bags, sizes, strict=True):
        counted: Counter[str] = Counter()
        if bag.path in foreign:
            labels = foreign[bag.path]
            yield from teleoperation_blocks(bag, contract, labels, counted, tell)
        else:
            assembler = BulkAssembler(contract, bag_custom_data(bag.path).get(NAMESPACE, ''))
            counted = assembler.counters
            for messages, bytes_read in _gathered(bag):
                yield from assembler.push_all(messages)
                tell(bytes_read)
            yield from assembler.finish_all()
        done += size
        if damage is not None:
            damage.add(bag.damage)
        if counters is not None:
            counters.update(counted)
    if progress is not None:
        progress(1.0)


def _gathered(bag: BagReader) -> Iterator[tuple[list[Message], int]]:
    """Yield the messages of a bag, enough of them at a time, and how many bytes were read."""
    messages: list[Message] = []
    size = bytes_read = 0
    parts = bag.parts()
    while True:
        with collection_held_off():
            part = next(parts, None)
        if part is None:
            break
        messages += part.messages
        size += sum(map(len, map(_data, part.messages)))
        bytes_read = part.bytes_read
        if len(messages) >= _MESSAGES or size >= _BYTES:
            yield messages, bytes_read
            messages, size = [], 0
    yield messages, bytes_read


def check_contract(folder: Path, contract: Contract) -> None:
    """Refuse a bag that was recorded under another contract than `contract`.

    Raises:
        BagError: names both hashes.
    """
    custom = bag_custom_data(folder)
    found = custom.get(CONTRACT_HASH, '')
    if found != contract.hash:
        recorded = f'{custom.get(CONTRACT, "?")} ({found})' if found else 'none it names'
        raise BagError(
            f'{folder} was recorded under contract {recorded}, this one is {contract.name} '
            f'({contract.hash}); give the contract it was recorded under'
        )
