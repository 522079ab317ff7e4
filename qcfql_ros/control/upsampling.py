# SPDX-License-Identifier: Apache-2.0
"""Several command values in a tick, between the last row's and this one's.

::

    hold     last |this this this this|next next ...
    linear   last |  .    :    !  this|    the row's value is reached with the last command
    cubic    last |  .    :    !  this|    and passed with the velocity the next tick begins with
"""

from __future__ import annotations

from qcfql_ros.errors import ContractError

_Weights = tuple[float, float, float]


def _hold(s: float) -> _Weights:
    return 0.0, 0.0, 0.0


def _linear(s: float) -> _Weights:
    return 1.0 - s, 0.0, 0.0


def _cubic(s: float) -> _Weights:
    """Hermite's, with the two velocities' weights for a tick of length 1."""
    return (1.0 + 2.0 * s) * (1.0 - s) ** 2, s * (1.0 - s) ** 2, -(s**2) * (1.0 - s)


_KINDS = {'hold': _hold, 'linear': _linear, 'cubic': _cubic}


class Upsampler:
    """Interpolates each number from where it was to where it is to be at the tick's end.

    Args:
        kind: ``hold``, ``linear`` or ``cubic``.
        commands: in a tick.
        size: how many numbers.
    """

    def __init__(self, kind: str, commands: int, size: int) -> None:
        if kind not in _KINDS:
            raise ContractError(
                f'upsampling is {kind!r}, wanted one of: {", ".join(sorted(_KINDS))}'
            )
        self._weights = [_KINDS[kind]((j + 1) / commands) for j in range(commands)]
        self._cubic = kind == 'cubic'
        self._last = commands - 1
        self._before = [0.0] * size
        self._change = [0.0] * size  # a tick, at its beginning
        self._end_change = [0.0] * size
        self._end = [0.0] * size
        self._values = [0.0] * size

    def start(self, values: list[float]) -> None:
        """Be at rest at `values`."""
        self._end[:] = values
        self._end_change = [0.0] * len(values)

    def rebase(self, number: int, value: float) -> None:
        """Begin the next tick of one number there, as relative ones do."""
        self._end[number] = value

    def begin(self, end: list[float], following: list[float] | None = None) -> None:
        """Begin a tick.

        Args:
            end: command value of each number at the end of this tick.
            following: at the end of the next one; None if not known, or if it comes to rest.
        """
        self._before[:] = self._end
        self._end[:] = end
        if self._cubic:
            self._change, self._end_change = self._end_change, self._change
            for i, before in enumerate(self._before):
                self._end_change[i] = 0.0 if following is None else 0.5 * (following[i] - before)

    def at(self, command: int) -> list[float]:
        """Return the values of a command of this tick, from 0; valid until the next call."""
        if command == self._last:
            return self._end
        of_before, of_change, of_end_change = self._weights[command]
        values, before, end = self._values, self._before, self._end
        for i, last in enumerate(end):
            values[i] = last + of_before * (before[i] - last)
        if self._cubic:
            for i in range(len(values)):
                values[i] += of_change * self._change[i] + of_end_change * self._end_change[i]
        return values
