# SPDX-License-Identifier: Apache-2.0
"""What reading a bag that others recorded takes in memory, estimated before it is decoded.

The numbers of the whole bag are held while its steps are made: a tick may look at what was
received after it, and one episode may be all of the bag.
"""

from __future__ import annotations

from collections import Counter
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from qcfql_ros.contract.schema import Contract
from qcfql_ros.contract.topics import absolute
from qcfql_ros.data.labels import load_labels
from qcfql_ros.data.reader import BagReader
from qcfql_ros.data.teleoperation import teleoperation_reader
from qcfql_ros.data.teleoperation_messages import AT_ONCE, Gathered
from qcfql_ros.data.teleoperation_ticks import LONGEST_PAUSE_NS

_topic = itemgetter(0)
_EVENT_BYTES = 400  # of the stamps and the text of one event
_FIXED_BYTES = 16 << 20  # a chunk of a file, and what decodes it


def reading_bytes(bag: str | Path, contract: Contract) -> int:
    """Return about how many bytes making steps of a bag that others recorded takes at most.

    Reads the bag once and decodes nothing: what its files say of themselves may be wrong.

    Raises:
        BagError: the bag cannot be read, or does not fit the contract.
    """
    labels = load_labels(bag)
    return bytes_taken(teleoperation_reader(bag, contract, labels), contract)


def bytes_taken(reader: BagReader, contract: Contract) -> int:
    """Return about how many bytes `teleoperation_blocks` takes at most.

    Args:
        reader: of `teleoperation_reader`; it is read once.
        contract: with a section `recordings`.

    Raises:
        BagError: the bag cannot be read.
    """
    rules = contract.recordings
    assert rules is not None
    counts, periods = _counted(reader, contract)
    gathered = Gathered(contract)
    series = {contract.streams[name].topic: one for name, one in gathered.streams.items()}
    series |= gathered.commands
    if rules.reward.topic:
        series[rules.reward.topic] = gathered.rewards
    # Read, and once more in order; with what tells good from bad.
    messages = sum(
        counts[absolute(topic)] * (2 * one.message_bytes + 16) for topic, one in series.items()
    )
    if rules.events is not None:
        messages += counts[absolute(rules.events.topic)] * _EVENT_BYTES
    ticks = counts[absolute(rules.clock)] if rules.grid == 'commands' else periods
    decoded = AT_ONCE * 64 * sum(one.size for one in gathered.streams.values())
    return messages + ticks * _tick_bytes(contract, series) + decoded + _FIXED_BYTES


def _tick_bytes(contract: Contract, series: dict[str, Any]) -> int:
    """Return what a tick takes: stamps and places, and the numbers of its step."""
    widest = max(one.message_bytes for one in series.values())
    return (
        80  # stamps, codes, episodes, flags
        + 24 * len(series)  # the places of its messages
        + 8 * 4 * contract.action_dim  # commands, rows, and both once more
        + 4 * 2 * contract.state_dim  # observations
        + widest
    )


def _counted(reader: BagReader, contract: Contract) -> tuple[Counter[str], int]:
    """Return messages by topic, and the control periods from the first command to the last."""
    assert contract.recordings is not None
    clock = absolute(contract.recordings.clock)
    counts: Counter[str] = Counter()
    periods, latest_ns = 1, None
    for part in reader.parts():
        counts.update(map(_topic, part.messages))
        stamps = [message.receive_ns for message in part.messages if message.topic == clock]
        if not stamps:
            continue
        between = np.diff([stamps[0] if latest_ns is None else latest_ns, *stamps])
        latest_ns = stamps[-1]
        periods += int(np.clip(between, 0, LONGEST_PAUSE_NS).sum()) // contract.period_ns + 1
    return counts, periods
