# SPDX-License-Identifier: Apache-2.0
"""What a setting is: its type, its bounds, when a change of it takes effect."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from qcfql_ros.errors import ParameterError, nearest

AT_START, NEXT_CHUNK, NEXT_EPISODE = 'at start', 'next chunk', 'next episode'
NEXT_REPORT = 'next report'
EFFECTS = (AT_START, NEXT_CHUNK, NEXT_EPISODE, NEXT_REPORT)
TYPE_WORDS = {bool: 'true or false', int: 'an integer', float: 'a number', str: 'a text'}


@dataclass(frozen=True)
class Parameter:
    """One setting.

    Attributes:
        name: as in ROS and, with two dashes before it, on the command line.
        type: bool, int, float or str.
        default: of that type, and inside the bounds.
        description: one sentence for the reference page.
        unit: for people; the name carries it too (`_s`, `_hz`).
        low, high: inclusive bounds of a number; None is open.
        choices: the only texts allowed; empty is any.
        effect: when a change takes effect; what does so 'at start' cannot be changed later.
    """

    name: str
    type: type
    default: Any
    description: str
    unit: str = ''
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    effect: str = AT_START

    def __post_init__(self) -> None:
        """Raise ParameterError for a default that the declaration itself forbids."""
        if self.type not in TYPE_WORDS or self.effect not in EFFECTS:
            raise ParameterError(
                f'parameter {self.name}: type {self.type}, effect {self.effect!r}: not supported'
            )
        self.check(self.default)

    @property
    def read_only(self) -> bool:
        """Whether `ros2 param set` is refused."""
        return self.effect == AT_START

    @property
    def key(self) -> str:
        """The name as a Python identifier: dots, which ROS groups names by, as underscores."""
        return self.name.replace('.', '_')

    def check(self, value: Any) -> Any:
        """Return `value` as this parameter's type; raise ParameterError saying what is wrong."""
        if self.type is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        kind: type = type(value)  # kept apart: `type(value) is not ...` would narrow it to object
        if kind is not self.type:
            raise ParameterError(
                f'parameter {self.name} is {value!r} ({kind.__name__}); '
                f'wanted {TYPE_WORDS[self.type]}'
            )
        if self.choices and value not in self.choices:
            wanted = ', '.join(choice or 'an empty text' for choice in self.choices)
            raise ParameterError(
                f'parameter {self.name} is {value!r}; wanted one of: {wanted}'
                + nearest(value, self.choices)
            )
        # `not (low <= value)` rather than `value < low`: a NaN must not pass.
        if self.low is not None and not value >= self.low:
            raise ParameterError(f'parameter {self.name} is {value}; wanted >= {self.low:g}')
        if self.high is not None and not value <= self.high:
            raise ParameterError(f'parameter {self.name} is {value}; wanted <= {self.high:g}')
        return value


def check_values(table: Iterable[Parameter], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults of `table` overlaid with `values`, each checked.

    Raises:
        ParameterError: an unknown name, a wrong type or a value out of range.
    """
    known = {parameter.name: parameter for parameter in table}
    for name in values:
        if name not in known:
            raise ParameterError(f'unknown parameter {name!r}' + nearest(name, known))
    return {name: p.check(values.get(name, p.default)) for name, p in known.items()}
