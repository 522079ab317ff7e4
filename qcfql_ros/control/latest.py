# SPDX-License-Identifier: Apache-2.0
"""The last messages of every stream, and the observation at a stamp."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from qcfql_ros.contract.decode import Decoder
from qcfql_ros.contract.previous import NoRow
from qcfql_ros.contract.schema import Contract
from qcfql_ros.control.measured import MeasuredReader, Measurement
from qcfql_ros.errors import MessageError

_KEPT = 128


@dataclass(frozen=True, eq=False)
class Sample:
    """One decoded sensor message.

    Attributes:
        stamp_ns: header stamp, ROS time; where it has none, when it came.
        receive_ns: when it came, monotonic.
        values: (n,) float64; None for a message that could not be used.
        stamped: has a header stamp.
    """

    stamp_ns: int
    receive_ns: int
    values: np.ndarray | None
    stamped: bool = True


class LatestMessages:
    """Written by the thread that receives, read by those that act."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._decoder = Decoder(contract)
        self._places = MeasuredReader(contract)
        self._samples: dict[str, deque[Sample]] = {
            name: deque(maxlen=_KEPT) for name in contract.streams
        }

    def put(self, stream: str, sample: Sample) -> None:
        """Add a message; a stamp that goes back starts the stream anew."""
        samples = self._samples[stream]
        if samples and sample.stamp_ns < samples[-1].stamp_ns:
            samples.clear()
        samples.append(sample)

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of all streams."""
        return tuple(self._samples)

    def newest(self, stream: str) -> Sample | None:
        """Return the last message of `stream`."""
        try:
            return self._samples[stream][-1]
        except IndexError:
            return None

    def stale(self, now_ns: int) -> tuple[str, int]:
        """Return (what is missing or too old, how far beyond its max_age in ns); '' if nothing."""
        for stream in self._contract.streams.values():
            newest = self.newest(stream.name)
            if newest is None:
                return f'no message on topic {stream.topic!r} yet', 0
            beyond = now_ns - newest.receive_ns - round(stream.max_age_s * 1e9)
            if beyond > 0:
                age_s = (now_ns - newest.receive_ns) * 1e-9
                return (
                    f'topic {stream.topic!r}: last message is {age_s:.2f} s old, '
                    f'wanted at most {stream.max_age_s:g} s',
                    beyond,
                )
        return '', 0

    def all_newer(self, stamp_ns: int, receive_ns: int, patience_ns: int) -> bool:
        """Whether every stream has a message stamped and received after these.

        Or received more than `patience_ns` after, whatever its stamp.
        """
        newest = [self.newest(name) for name in self._samples]
        return all(
            sample is not None
            and sample.receive_ns > receive_ns
            and (sample.stamp_ns > stamp_ns or sample.receive_ns > receive_ns + patience_ns)
            for sample in newest
        )

    def measured(self) -> Measurement | None:
        """Return where the robot is, by the newest messages; None if one cannot be used."""
        values = {}
        for name in self._places.streams:
            newest = self.newest(name)
            values[name] = None if newest is None else newest.values
        return self._places.read(values)

    def observe(
        self, until_ns: int, previous: np.ndarray | NoRow | None = None
    ) -> tuple[np.ndarray, dict[str, int]]:
        """Return the observation of (state_dim,) float32 at stamp `until_ns`, and its stamps.

        Of each stream the last message stamped at or before `until_ns`; `previous` is the row
        executed before, where the contract wants it. The stamp given for a message without one
        is 0: whoever else receives it receives it at another time.

        Raises:
            MessageError: a stream has none, or that message could not be used.
        """
        values, stamps = {}, {}
        for name in self._contract.streams:
            chosen = next(
                (s for s in reversed(tuple(self._samples[name])) if s.stamp_ns <= until_ns), None
            )
            if chosen is None:
                raise MessageError(f'stream {name!r}: no message stamped at or before {until_ns}')
            if chosen.values is None:
                raise MessageError(
                    f'stream {name!r}: the message at {chosen.stamp_ns} ns cannot be used'
                )
            values[name] = chosen.values
            stamps[name] = chosen.stamp_ns if chosen.stamped else 0
        return self._decoder.observation(values, previous), stamps
