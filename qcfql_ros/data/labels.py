# SPDX-License-Identifier: Apache-2.0
"""The side-car of a recording that says its episodes and how they ended.

It lies beside the bag, ``my_bag.labels.yaml`` beside ``my_bag``; the bag itself is never changed::

    labels: 1
    start_ns: 1795413750166436281    # receive stamp of the bag's first message
    episodes:
      - {begin_s: 0.545, end_s: 4.496, outcome: success}
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from qcfql_ros.contract.recordings import OUTCOMES
from qcfql_ros.contract.section import Section, read_yaml
from qcfql_ros.data.bag_folder import beside
from qcfql_ros.errors import BagError, ContractError, nearest

DISCARD = 'discard'
LABELS = (*OUTCOMES, DISCARD)
SUFFIX = '.labels.yaml'
_LONGEST_S = 1e9
_LATEST_NS = 1 << 62


@dataclass(frozen=True)
class Label:
    """One episode, both ends in it; times in s from the bag's first message.

    `outcome` is one of `LABELS`; of what is discarded no steps are made.
    """

    begin_s: float
    end_s: float
    outcome: str


@dataclass(frozen=True)
class Labels:
    """The episodes of one bag in order.

    Attributes:
        start_ns: receive stamp of the bag's first message, from which times count.
        episodes: they do not overlap.

    Raises:
        BagError: an unknown outcome, an episode that ends before it begins, or two that overlap.
    """

    start_ns: int
    episodes: tuple[Label, ...]

    def __post_init__(self) -> None:
        last_s = -_LONGEST_S
        for number, episode in enumerate(self.episodes):
            where = f'episode {number} ({episode.begin_s:g} s to {episode.end_s:g} s)'
            if episode.outcome not in LABELS:
                raise BagError(
                    f'{where}: outcome is {episode.outcome!r}, want one of {", ".join(LABELS)}'
                    f'{nearest(episode.outcome, LABELS)}'
                )
            if not -_LONGEST_S < episode.begin_s < episode.end_s < _LONGEST_S:
                raise BagError(f'{where}: want a begin before its end, both within 1e9 s')
            if episode.begin_s <= last_s:
                raise BagError(f'{where}: begins before the one before it ended, at {last_s:g} s')
            last_s = episode.end_s

    def begin_ns(self, label: Label) -> int:
        """Return the receive stamp with which `label` begins."""
        return self.start_ns + round(label.begin_s * 1e9)

    def end_ns(self, label: Label) -> int:
        """Return the receive stamp with which `label` ends."""
        return self.start_ns + round(label.end_s * 1e9)


def labels_path(bag: str | Path) -> Path:
    """Return where the labels of a bag lie, whether they exist or not."""
    return beside(bag, SUFFIX)


def load_labels(bag: str | Path) -> Labels | None:
    """Return the labels beside a bag, None where there are none.

    Raises:
        BagError: they cannot be read, or say something impossible; names file and place.
    """
    path = labels_path(bag)
    if not path.exists():
        return None
    try:
        top = Section(str(path), '', read_yaml(path), ('labels', 'start_ns', 'episodes'))
        if top.data['labels'] != 1:
            raise top.error('labels', '1, the version of this format')
        start_ns = top.data['start_ns']
        is_whole = isinstance(start_ns, int) and not isinstance(start_ns, bool)
        if not is_whole or not 0 <= start_ns < _LATEST_NS:
            raise top.error('start_ns', 'the receive stamp of the first message in ns')
        episodes = tuple(
            Label(
                item.number('begin_s', low=-_LONGEST_S, high=_LONGEST_S),
                item.number('end_s', low=-_LONGEST_S, high=_LONGEST_S),
                item.choice('outcome', LABELS),
            )
            for item in top.sections('episodes', ('begin_s', 'end_s', 'outcome'))
        )
    except ContractError as error:
        raise BagError(str(error)) from error
    try:
        return Labels(start_ns, episodes)
    except BagError as error:
        raise BagError(f'{path}: {error}') from error


def write_labels(bag: str | Path, labels: Labels) -> Path:
    """Write the labels of a bag beside it, whole or not at all, and return where they are.

    Raises:
        BagError: the file cannot be written.
    """
    path = labels_path(bag)
    document = {
        'labels': 1,
        'start_ns': labels.start_ns,
        'episodes': [
            {'begin_s': one.begin_s, 'end_s': one.end_s, 'outcome': one.outcome}
            for one in labels.episodes
        ],
    }
    part = path.with_name(f'.{path.name}.part')
    try:
        part.write_text(yaml.dump(document, sort_keys=False, default_flow_style=None))
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise BagError(f'{path}: labels cannot be written: {error}') from error
    return path


def label_all(
    start_ns: int, stretches: Sequence[tuple[int, int]], outcomes: Sequence[str]
) -> Labels:
    """Return the labels of stretches of receive stamps in ns, each with its outcome.

    Their ends are rounded outward to whole milliseconds.

    Args:
        start_ns: receive stamp of the bag's first message.
        stretches: first and last stamp of each.
        outcomes: as many.
    """
    episodes = []
    for (first, last), outcome in zip(stretches, outcomes, strict=True):
        begin_ms = (first - start_ns) // 1_000_000
        end_ms = -((start_ns - last) // 1_000_000)
        episodes.append(Label(begin_ms / 1e3, max(end_ms, begin_ms + 1) / 1e3, outcome))
    return Labels(start_ns, tuple(episodes))
