# SPDX-License-Identifier: Apache-2.0
"""Say when the episodes of a bag that others recorded begin and end, and how.

Writes <bag>.labels.yaml beside the bag, which itself is never changed. Times are seconds from the
bag's first message, as `ros2 bag info` counts them. Three ways to find the episodes:

  --episode 0.5 12.3 success   from and until when, and how it ended; give it for each
  --by-gaps 1.0                an episode ends where no command came for so many seconds
  --whole                      the bag is one episode

An episode that ends in success or failure is terminated: nothing is expected beyond. One that ends
in timeout or abort is truncated. One to discard makes no steps, nor does what lies in between.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from qcfql_ros.contract import Contract, load_contract
from qcfql_ros.contract.topics import absolute
from qcfql_ros.data.labels import (
    LABELS,
    Label,
    Labels,
    label_all,
    labels_path,
    load_labels,
    write_labels,
)
from qcfql_ros.data.reader import BagReader, bag_info
from qcfql_ros.data.teleoperation import recorded_by_others, types_wanted
from qcfql_ros.errors import BagError, ParameterError

OUTCOMES = f'{", ".join(LABELS[:-1])} or {LABELS[-1]}'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add = parser.add_argument
    add('bag', type=Path, help='a rosbag2 folder, or one of its files')
    add('--contract', help='name or path; its clock says which topic the commands are')
    add('--topic', help='of the commands, where no --contract says it')
    ways = parser.add_mutually_exclusive_group(required=True)
    ways.add_argument(
        '--episode',
        nargs=3,
        action='append',
        metavar=('BEGIN', 'END', 'OUTCOME'),
        help=f'seconds, seconds, and {OUTCOMES}; may be given again and again',
    )
    ways.add_argument('--by-gaps', type=float, metavar='SECONDS', help='without a command')
    ways.add_argument('--whole', action='store_true', help='one episode')
    ways.add_argument('--show', action='store_true', help='print the labels that are there')
    outcomes = parser.add_mutually_exclusive_group()
    outcomes.add_argument('--outcome', help=f'of every episode: {OUTCOMES}')
    outcomes.add_argument('--outcomes', metavar='A,B,...', help='one for each episode, in order')
    add('--force', action='store_true', help='replace the labels that are there')


def run(arguments: argparse.Namespace) -> int:
    """Write the labels, or show them; see the module's text."""
    bag, path = arguments.bag, labels_path(arguments.bag)
    if arguments.show and (arguments.outcome or arguments.outcomes or arguments.force):
        raise ParameterError('--show writes nothing; leave out --outcome, --outcomes and --force')
    contract = load_contract(arguments.contract) if arguments.contract else None
    stamps = _command_stamps(arguments, contract)
    if arguments.show:
        labels = load_labels(bag)
        if labels is None:
            raise BagError(f'{bag} has no labels: there is no {path}')
        _print(labels, stamps)
        return 0
    if not recorded_by_others(bag):
        raise BagError(f'{bag} was recorded with its outcomes: there is nothing to label')
    if path.exists() and not arguments.force:
        raise BagError(f'{path} is there already: see it with --show, replace it with --force')
    first = next(iter(BagReader(bag)), None)
    if first is None:
        raise BagError(f'{bag} holds no message')
    labels = _labels(arguments, first.receive_ns, stamps)
    write_labels(bag, labels)
    print(f'{path}:')
    _print(labels, stamps)
    if contract is not None and contract.recordings is not None and contract.recordings.events:
        topic = contract.recordings.events.topic
        print(f'these stand for the events on {topic}, which are not looked at in this bag')
    return 0


def _command_stamps(arguments: argparse.Namespace, contract: Contract | None) -> list[int] | None:
    """Return the receive stamps of the commands; None where nothing says which they are."""
    topics: dict[str, str] = {}
    if arguments.topic:
        topic = absolute(arguments.topic.lstrip('/'))
    elif contract is not None:
        wanted = types_wanted(contract)
        assert contract.recordings is not None
        topic = absolute(contract.recordings.clock)
        topics = {topic: wanted[topic]}
    elif arguments.by_gaps is not None:
        raise ParameterError('--by-gaps needs --contract, or --topic with the commands')
    else:
        return None
    reader = BagReader(arguments.bag, topics or [topic])
    there = reader.channels()
    if topic not in there:
        raise BagError(
            f'{arguments.bag}: there is no topic {topic}; it has {", ".join(sorted(there))}'
        )
    stamps = sorted(message.receive_ns for message in reader)
    if reader.damage:  # a gap may be where commands were lost
        print(f'qcfql label: {arguments.bag}: {reader.damage}', file=sys.stderr)
    return stamps


def _labels(arguments: argparse.Namespace, start_ns: int, stamps: list[int] | None) -> Labels:
    if arguments.episode:
        if arguments.outcome or arguments.outcomes:
            raise ParameterError('--episode names its outcome itself; leave out --outcome')
        episodes = []
        for begin, end, outcome in arguments.episode:
            try:
                episodes.append(Label(float(begin), float(end), outcome))
            except ValueError:
                raise ParameterError(
                    f'--episode {begin} {end} {outcome}: want seconds, seconds, outcome'
                ) from None
        return Labels(start_ns, tuple(sorted(episodes, key=lambda one: one.begin_s)))
    if stamps is not None and not stamps:
        raise BagError(f'{arguments.bag} holds no command')
    if arguments.by_gaps is not None:
        assert stamps is not None
        stretches = _stretches(stamps, arguments.by_gaps)
    elif stamps is not None:
        stretches = [(stamps[0], stamps[-1])]
    else:
        stretches = [(start_ns, bag_info(arguments.bag).end_ns)]
    return label_all(start_ns, stretches, _outcomes(arguments, start_ns, stretches))


def _stretches(stamps: Sequence[int], gap_s: float) -> list[tuple[int, int]]:
    """Return first and last of the runs of `stamps` without a gap longer than `gap_s`.

    Raises:
        ParameterError: the gap is no time.
    """
    if not 0.0 < gap_s < 1e6:
        raise ParameterError(f'--by-gaps is {gap_s:g}; want seconds, more than 0')
    cuts = [i for i in range(1, len(stamps)) if stamps[i] - stamps[i - 1] > gap_s * 1e9]
    starts, ends = [0, *cuts], [*cuts, len(stamps)]
    return [(stamps[a], stamps[b - 1]) for a, b in zip(starts, ends, strict=True)]


def _outcomes(
    arguments: argparse.Namespace, start_ns: int, stretches: Sequence[tuple[int, int]]
) -> list[str]:
    if arguments.outcome:
        return [arguments.outcome] * len(stretches)
    given = [word.strip() for word in (arguments.outcomes or '').split(',') if word.strip()]
    if len(given) == len(stretches):
        return given
    found = ', '.join(
        f'{(first - start_ns) / 1e9:.1f} to {(last - start_ns) / 1e9:.1f} s'
        for first, last in stretches
    )
    raise ParameterError(
        f'{len(given)} outcomes for {len(stretches)} episodes ({found}): give --outcome for all '
        'of them, or --outcomes with one for each'
    )


def _print(labels: Labels, stamps: list[int] | None) -> None:
    """Print a line for each episode, with how many commands are in it where that is known."""
    for number, label in enumerate(labels.episodes):
        line = f'{number:4d}  {label.begin_s:10.3f} s to {label.end_s:10.3f} s  {label.outcome}'
        if stamps is not None:
            begin_ns, end_ns = labels.begin_ns(label), labels.end_ns(label)
            count = sum(begin_ns <= stamp <= end_ns for stamp in stamps)
            line = f'{line:52s}{count:6d} commands'
        print(line)
