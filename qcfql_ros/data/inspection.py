# SPDX-License-Identifier: Apache-2.0
"""Whether a recording can be learned from: what its topics, its steps and its numbers look like.

A recording is read twice: as training will read it, and topic by topic. Where training could not
use all messages, each is decoded once more to say why. What is kept of a recording is its stamps,
its segments and a sample of its numbers; only of one that others recorded, all numbers that steps
are made of, while they are made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from qcfql_ros.contract.schema import Contract
from qcfql_ros.data.bag_file import Channel, Message
from qcfql_ros.data.bag_metadata import CONTRACT, CONTRACT_HASH, NAMESPACE
from qcfql_ros.data.bag_types import check_channels
from qcfql_ros.data.damage import Damage
from qcfql_ros.data.dataset import Progress, check_contract, load_blocks
from qcfql_ros.data.inspection_report import BagReport
from qcfql_ros.data.inspection_steps import StepStatistics
from qcfql_ros.data.inspection_topics import TopicLog, TopicReport
from qcfql_ros.data.inspection_verdict import unfit_reasons, warnings
from qcfql_ros.data.inspection_wanted import MessageChecks, WantedTopic, wanted_topics
from qcfql_ros.data.labels import load_labels
from qcfql_ros.data.reader import BagReader, bag_custom_data
from qcfql_ros.data.session_mark import session_topic
from qcfql_ros.data.teleoperation import recorded_by_others
from qcfql_ros.errors import BagError

_STEPS = 0.6  # of the time, about, making steps takes


def list_bag(path: Path, progress: Progress | None = None) -> BagReport:
    """Return what is in a recording, whatever it was made for.

    Raises:
        BagError: it is missing or cannot be read.
    """
    reader = BagReader(path)
    logs = {name: TopicLog(channel) for name, channel in reader.channels().items()}
    _read(reader, logs, progress, 0.0)
    return _report(reader, logs, {}, False, np.zeros(0, np.int64), 0.0)


def unreadable(path: Path, reason: str) -> BagReport:
    """Return what can be said of a recording that cannot be read."""
    files = path.rglob('*') if path.is_dir() else [path]
    size = sum(file.stat().st_size for file in files if file.is_file())
    return BagReport(
        path=path,
        files=0,
        size=size,
        storage='unreadable',
        contract='',
        contract_hash='',
        start_ns=0,
        end_ns=0,
        lockstep=False,
        topics=(),
        unused={},
        damage=Damage(),
        unfit=(reason,),
    )


def inspect_bag(
    path: Path,
    contract: Contract,
    window_steps: int,
    terminal_windows: bool = True,
    progress: Progress | None = None,
) -> BagReport:
    """Return what a recording is worth to a training under `contract`.

    Args:
        path: of the recording.
        contract: what its messages mean.
        window_steps: steps in a window: the chunk, or as many as a return sums up.
        terminal_windows: windows that a termination cuts short count.
        progress: told now and then how far it is.

    Raises:
        BagError: it is missing or cannot be read at all.
    """
    namespace = bag_custom_data(path).get(NAMESPACE, '')
    by_others = recorded_by_others(path)
    labels = load_labels(path) if by_others else None
    wanted = wanted_topics(contract, namespace, by_others=by_others, labelled=labels is not None)
    channels = BagReader(path).channels()
    wrong = _wrong_types(path, channels, wanted)
    steps, counters, refused = None, Counter[str](), list(wrong.values())
    if not by_others:
        try:
            check_contract(path, contract)
        except BagError as error:
            refused.append(str(error))
    there = all(name in channels for name, topic in wanted.items() if topic.required)
    if not wrong and (there or not by_others or contract.recordings is None):
        statistics = StepStatistics(contract, window_steps, terminal_windows)
        try:
            _read_steps(path, contract, statistics, counters, progress)
            steps = statistics.report()
        except BagError as error:
            refused.append(str(error))
    checks = MessageChecks(contract)
    decode = steps is None or counters['bad_message'] > 0  # else all of them could be used
    logs = {
        name: TopicLog(
            channels[name],
            topic,
            checks.of(topic) if name not in wrong and (decode or topic.role == 'step') else None,
        )
        for name, topic in wanted.items()
        if name in channels
    }
    reader = BagReader(path, list(logs))
    _read(reader, logs, progress, _STEPS)
    clock = next((log for name, log in logs.items() if wanted[name].clock), None)
    ticks_ns = np.zeros(0, np.int64) if clock is None else clock.receive_ns
    lockstep = checks.lockstep > len(ticks_ns) / 2
    report = _report(reader, logs, wanted, lockstep, ticks_ns, contract.stamp_tolerance_s)
    ours = {*wanted, session_topic(namespace)}
    unused = {name: one.type_name for name, one in channels.items() if name not in ours}
    report = replace(report, unused=unused, labels=labels, steps=steps, counters=dict(counters))
    return replace(
        report,
        unfit=(*refused, *unfit_reasons(report, window_steps)),
        warnings=warnings(report, contract),
    )


def _read(
    reader: BagReader, logs: Mapping[str, TopicLog], progress: Progress | None, done: float
) -> None:
    """Give the messages to the logs; `done` is how far all is before."""
    total = max(1, reader.bytes)
    for part in reader.parts():
        by_topic: dict[str, list[Message]] = {}
        for message in part.messages:
            by_topic.setdefault(message.topic, []).append(message)
        for topic, messages in by_topic.items():
            if topic in logs:
                logs[topic].add(messages)
        if progress is not None:
            progress(done + (1.0 - done) * min(1.0, part.bytes_read / total))


def _read_steps(
    path: Path,
    contract: Contract,
    statistics: StepStatistics,
    counters: Counter[str],
    progress: Progress | None,
) -> None:
    """Give the steps to the statistics.

    Raises:
        BagError: there is no way to make steps of this recording.
    """

    def on_progress(part: float) -> None:
        if progress is not None:
            progress(_STEPS * part)

    for block in load_blocks(path, contract, on_progress, any_contract=True, counters=counters):
        statistics.add(block)


def _report(
    reader: BagReader,
    logs: Mapping[str, TopicLog],
    wanted: Mapping[str, WantedTopic],
    lockstep: bool,
    ticks_ns: np.ndarray,
    tolerance_s: float,
) -> BagReport:
    custom = bag_custom_data(reader.path)
    received = [log.receive_ns for log in logs.values()]
    start = min((int(stamps.min()) for stamps in received if len(stamps)), default=0)
    end = max((int(stamps.max()) for stamps in received if len(stamps)), default=0)
    topics = [log.report(lockstep, ticks_ns, (start, end), tolerance_s) for log in logs.values()]
    there = {topic.topic: topic for topic in topics}
    missing = {name: TopicReport(name, '', one, 0) for name, one in wanted.items()}
    return BagReport(
        path=reader.path,
        files=len(reader.paths),
        size=reader.bytes,
        storage=reader.metadata.storage if reader.metadata else _storage(reader.paths),
        contract=custom.get(CONTRACT, ''),
        contract_hash=custom.get(CONTRACT_HASH, ''),
        start_ns=start,
        end_ns=end,
        lockstep=lockstep,
        topics=tuple((missing | there).values()),
        unused={},
        damage=reader.damage,
    )


def _storage(paths: Sequence[Path]) -> str:
    return 'sqlite3' if any('.db3' in path.suffixes for path in paths) else 'mcap'


def _wrong_types(
    path: Path, channels: Mapping[str, Channel], wanted: Mapping[str, WantedTopic]
) -> dict[str, str]:
    """Return by topic what is wrong with its type: bag, topic, type got and type wanted."""
    types = {name: topic.type for name, topic in wanted.items()}
    wrong = {}
    for name, channel in channels.items():
        try:
            check_channels(path, [channel], types)
        except BagError as error:
            wrong[name] = str(error)
    return wrong
