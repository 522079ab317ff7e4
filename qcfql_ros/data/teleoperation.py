# SPDX-License-Identifier: Apache-2.0
"""Bags that others recorded as steps, by the contract's section `recordings`.

Time is the stamps of the recording; no clock is read. A tick that cannot become a step cuts the
segment there, as in `assembler`: what lies on both sides of it is never joined.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from qcfql_ros.contract.schema import Contract
from qcfql_ros.contract.topics import STEP_TOPIC, absolute
from qcfql_ros.data.bag_metadata import CONTRACT_HASH, INFORMATION, METADATA, NAMESPACE
from qcfql_ros.data.episodes import (
    Episode,
    announced_episodes,
    labelled_episodes,
    whole_bag,
)
from qcfql_ros.data.inspection_wanted import wanted_topics
from qcfql_ros.data.labels import Labels, labels_path
from qcfql_ros.data.reader import BagReader, bag_custom_data
from qcfql_ros.data.step_block import StepBlock
from qcfql_ros.data.teleoperation_messages import Gathered
from qcfql_ros.data.teleoperation_steps import TickData, make_block, split_block
from qcfql_ros.errors import BagError


def recorded_by_others(bag: str | Path, *, include_open: bool = False) -> bool:
    """Say whether a bag names no contract and has no `policy/step`, so that it is not ours.

    `include_open`: also look into the file that a recorder is writing.
    """
    custom = bag_custom_data(bag)
    if custom.get(CONTRACT_HASH):
        return False
    channels = BagReader(bag, include_open=include_open).channels()
    return absolute(STEP_TOPIC, custom.get(NAMESPACE, '')) not in channels


def types_wanted(contract: Contract) -> dict[str, str]:
    """Return absolute topic to type of all that makes steps of a bag that others recorded.

    Raises:
        BagError: the contract does not say how.
    """
    if contract.recordings is None:
        raise BagError(
            f'{contract.file} has no section `recordings`, which says how the commands of a bag '
            'that others recorded make steps; add one (docs/contract.md)'
        )
    wanted = wanted_topics(contract, by_others=True).items()
    return {name: topic.type for name, topic in wanted if topic.role != 'image'}


def labels_note(bag: str | Path, contract: Contract) -> str:
    """Return in a line what the labels beside a bag stand for; empty where there are none.

    Raises:
        BagError: the bag cannot be read.
    """
    path = labels_path(bag)
    if not path.exists():
        return ''
    if not recorded_by_others(bag):
        return f'{bag} was recorded with its outcomes: {path} is not looked at'
    rules = contract.recordings
    events = f', not those announced on {rules.events.topic}' if rules and rules.events else ''
    return f'{bag}: episodes and outcomes are those of {path}{events}'


def teleoperation_reader(
    bag: str | Path,
    contract: Contract,
    labels: Labels | None = None,
    *,
    include_open: bool = False,
    splits: slice = slice(None),
) -> BagReader:
    """Return a reader of what makes steps of a bag that others recorded, checked.

    Args:
        bag: a rosbag2 folder, or one of its files.
        contract: with a section `recordings`.
        labels: of the bag; they stand for the events.
        include_open: also what a recorder is writing at this moment.
        splits: only these files, in order.

    Raises:
        BagError: the contract does not say how steps are made, a topic is missing or has another
            type, or nothing says how episodes end.
    """
    try:
        wanted = types_wanted(contract)
    except BagError as error:
        raise BagError(
            _of_our_robot(bag, contract, include_open)
            or f'{bag} has no topic /{STEP_TOPIC}: others recorded it; {error}'
        ) from None
    rules = contract.recordings
    assert rules is not None
    if labels is not None and rules.events is not None:
        del wanted[absolute(rules.events.topic)]
    reader = BagReader(bag, wanted, include_open=include_open, splits=splits)
    there = reader.channels()
    for topic, kind in wanted.items():
        if topic not in there:
            raise BagError(
                _of_our_robot(bag, contract, include_open)
                or f'{bag}: there is no topic {topic} ({kind}), which contract {contract.name} '
                f'makes steps of; it has {", ".join(sorted(there)) or "no topics"}'
            )
    if labels is None and rules.events is None and not rules.reward.topic:
        raise BagError(
            f'{bag}: nothing says how its episodes end, so nothing is worth a reward: label it '
            f'with `qcfql label {bag}`, or name a topic in recordings.events of {contract.file}'
        )
    return reader


def _of_our_robot(bag: str | Path, contract: Contract, include_open: bool) -> str:
    """Say what a bag of our own robot in a namespace lacks; empty for another bag."""
    channels = BagReader(bag, include_open=include_open).channels()
    found = sorted(name for name in channels if name.endswith(f'/{STEP_TOPIC}'))
    if not found:
        return ''
    namespace = found[0].removesuffix(f'/{STEP_TOPIC}').strip('/')
    custom = {NAMESPACE: namespace} if namespace else {}
    custom[CONTRACT_HASH] = contract.hash
    lines = ', '.join(f'{key}: {value}' for key, value in custom.items())
    return (
        f'{bag} has {found[0]}, of a robot of ours, but does not name its contract and namespace '
        f'(/{namespace}): if it was driven under contract {contract.name}, write '
        f'`custom_data: {{{lines}}}` into its {METADATA} below {INFORMATION}'
    )


def teleoperation_blocks(
    reader: BagReader,
    contract: Contract,
    labels: Labels | None = None,
    counters: Counter[str] | None = None,
    on_part: Callable[[int], None] | None = None,
) -> Iterator[StepBlock]:
    """Yield the steps and segment ends of a bag that others recorded.

    Args:
        reader: of `teleoperation_reader`.
        contract: with a section `recordings`.
        labels: episodes and outcomes; they stand for the events.
        counters: messages, steps, segments, episodes, and by reason what was dropped are added.
        on_part: told how many bytes of the files were read so far.

    Raises:
        BagError: the bag cannot be read, or no message of a topic can be used.
    """
    counters = Counter() if counters is None else counters
    back_ns = round(contract.stamp_tolerance_s * 1e9)
    stretches = [Gathered(contract)]
    for part in reader.parts():
        now_ns = stretches[-1].now_ns
        if part.messages and now_ns and part.messages[0].receive_ns < now_ns - back_ns:
            counters['clock_set_back'] += 1
            stretches.append(Gathered(contract))
        stretches[-1].take(part.messages)
        if on_part is not None:
            on_part(part.bytes_read)
    series = [TickData.of(gathered, counters) for gathered in stretches]
    _require_usable(reader.path, contract, stretches, series)
    number = 0
    told: set[int] = set()
    ended: set[int] = set()
    for gathered, data in zip(stretches, series, strict=True):
        counters.update(gathered.counters)
        episodes = _episodes(gathered, contract, labels, counters)
        block = make_block(contract, data, episodes, counters, number)
        told |= {number + place for place, one in enumerate(episodes) if one.outcome}
        ended |= set(block.episode[block.end_after[block.episode_end] - 1].tolist())
        yield from split_block(block)
        if labels is None:  # they are the same ones in each stretch
            number += len(episodes)
    counters['episodes'] += len(ended)
    counters['episodes_without_end'] += len(told - ended)


def _episodes(
    gathered: Gathered, contract: Contract, labels: Labels | None, counters: Counter[str]
) -> list[Episode]:
    events = contract.recordings.events if contract.recordings else None
    if labels is not None:
        return labelled_episodes(labels)
    if events is not None:
        return announced_episodes(gathered.events, events, counters)
    return whole_bag()


def _require_usable(
    bag: Path, contract: Contract, stretches: list[Gathered], series: list[TickData]
) -> None:
    """Refuse a bag in which a topic has messages, and none of them fits the contract."""
    problems: dict[str, str] = {}
    for gathered in stretches:
        problems = gathered.problem | problems
    for topic in series[0].by_topic:
        found = [data.by_topic[topic] for data in series]
        name = absolute(topic)
        if any(one.good.any() for one in found):
            continue
        if any(name in gathered.counts for gathered in stretches):
            offset_s = contract.stamp_tolerance_s
            raise BagError(
                f'{bag}: no message of topic {name} can be used: '
                + problems.get(
                    name,
                    f'their stamps are further than {offset_s:g} s from their receive stamps '
                    '(control.stamp_tolerance_s)',
                )
            )
