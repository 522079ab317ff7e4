# SPDX-License-Identifier: Apache-2.0
"""Where the numbers of an observation come from, as frozen values; a part of `schema`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qcfql_ros.contract.topics import UNSTAMPED


@dataclass(frozen=True)
class Stream:
    """One sensor topic.

    Attributes:
        name: how features call it.
        topic: relative topic name.
        type: message type, ``package/msg/Name``.
        max_age_s: older than this (monotonic, since it was received) it must not be acted on.
    """

    name: str
    topic: str
    type: str
    max_age_s: float

    @property
    def stamped(self) -> bool:
        """Whether its messages carry a stamp; else when they were received stands for it."""
        return self.type not in UNSTAMPED


@dataclass(frozen=True)
class Entry:
    """Numbers that one field of a stream adds to ``observation.state``.

    A number is ``(raw + offset) * scale``, in float64. An entry without a stream has numbers of
    the action row that was executed before, named by `names`.

    Attributes:
        stream: name of the stream; empty for the previous action.
        field: field of the message; ``previous`` for the previous action.
        names: joint names, components of a vector field, or labels of numbers of an array; in the
            order wanted. None of a single number and of a whole orientation.
        form: ``plain``, or for an orientation ``wxyz``, ``xyzw`` or ``cos_sin_yaw``.
        offset: one number for each output.
        scale: one number for each output.
        index: of an array: where each number lies in it.
        length: of an array: how many numbers it must have; 0 of anything else.
    """

    stream: str
    field: str
    names: tuple[str, ...]
    form: str
    offset: tuple[float, ...]
    scale: tuple[float, ...]
    index: tuple[int, ...] = ()
    length: int = 0

    @property
    def size(self) -> int:
        """How many numbers it adds."""
        return len(self.scale)

    @property
    def is_previous(self) -> bool:
        """Whether it is the action executed before, and no part of a stream."""
        return not self.stream

    @property
    def output_names(self) -> tuple[str, ...]:
        """A name for each number, for logs and data sets."""
        if self.is_previous:
            return tuple(f'previous.{name}' for name in self.names)
        if self.form == 'plain' and not self.names:
            return (f'{self.stream}.{self.field}',)
        parts = {'wxyz': 'wxyz', 'xyzw': 'xyzw', 'cos_sin_yaw': ('cos_yaw', 'sin_yaw')}
        return tuple(f'{self.stream}.{self.field}.{n}' for n in parts.get(self.form, self.names))


@dataclass(frozen=True)
class StatePlaces:
    """Where the numbers of ``observation.state`` lie.

    Attributes:
        streams: by name: where the numbers of a stream lie, in the order it gives them.
        previous: parts of the state, and which numbers of the action executed before they are.
    """

    streams: dict[str, list[int]]
    previous: list[tuple[slice, list[int]]]


def state_places(
    streams: Iterable[str], state: Sequence[Entry], action_names: Sequence[str]
) -> StatePlaces:
    """Return where each stream's numbers lie in the state, and those of the previous action.

    Args:
        streams: names of all, also of those that add nothing.
        state: its entries in order.
        action_names: of the numbers of an action row.
    """
    found = StatePlaces({name: [] for name in streams}, [])
    begin = 0
    for entry in state:
        end = begin + entry.size
        if entry.is_previous:
            numbers = [action_names.index(name) for name in entry.names]
            found.previous.append((slice(begin, end), numbers))
        else:
            found.streams[entry.stream] += range(begin, end)
        begin = end
    return found
