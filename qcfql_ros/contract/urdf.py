# SPDX-License-Identifier: Apache-2.0
"""Limits of joints from a URDF file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from xml.parsers import expat

from qcfql_ros.errors import ContractError, nearest

LARGEST_BYTES = 16 * 1024 * 1024
_MOVING = ('revolute', 'prismatic', 'continuous')


@dataclass(frozen=True)
class JointLimits:
    """What a URDF allows a joint; infinite is no limit.

    Attributes:
        low, high: position in rad or m.
        velocity: its greatest absolute value, in rad/s or m/s.
        effort: its greatest absolute value, in N m or N.
    """

    low: float
    high: float
    velocity: float
    effort: float


class Urdf:
    """The joints of one URDF file.

    Raises:
        ContractError: it cannot be read, is too large, is no URDF, or is a xacro file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._joints = _Joints(path).joints

    def limits(self, joint: str) -> JointLimits:
        """Return the limits of `joint`.

        Raises:
            ContractError: there is no such joint, it does not move, or a limit makes no sense.
        """
        if joint not in self._joints:
            raise ContractError(
                f'{self.path}: no joint {joint!r}{nearest(joint, self._joints)} (it has '
                f'{", ".join(self._joints) or "none"})'
            )
        found = self._joints[joint]
        kind = found.get('joint', {}).get('type', '')
        if kind not in _MOVING:
            raise self._error(joint, 'type', repr(kind), f'one of {", ".join(_MOVING)}')
        low, high = -math.inf, math.inf
        limit, safety = found.get('limit'), found.get('safety_controller', {})
        if kind != 'continuous':
            if limit is None:
                raise self._error(joint, 'limit', 'none', f'<limit>, which a {kind} joint needs')
            low = self._number(joint, 'lower', limit, 0.0)
            high = self._number(joint, 'upper', limit, 0.0)
            low = max(low, self._number(joint, 'soft_lower_limit', safety, low))
            high = min(high, self._number(joint, 'soft_upper_limit', safety, high))
            if low >= high:
                raise self._error(joint, 'lower', f'{low:g}', f'less than upper, {high:g}')
        return JointLimits(
            low=low,
            high=high,
            velocity=self._positive(joint, 'velocity', limit or {}),
            effort=self._positive(joint, 'effort', limit or {}),
        )

    def _positive(self, joint: str, key: str, attributes: dict[str, str]) -> float:
        if key not in attributes:
            return math.inf
        number = self._number(joint, key, attributes, 0.0)
        if number <= 0.0:
            raise self._error(
                joint, key, f'{number:g}', 'more than 0; without a limit leave the attribute out'
            )
        return number

    def _number(self, joint: str, key: str, attributes: dict[str, str], default: float) -> float:
        text = attributes.get(key)
        if text is None:
            return default
        try:
            number = float(text)
        except ValueError:
            raise self._error(joint, key, repr(text), 'a number') from None
        if not math.isfinite(number):
            raise self._error(joint, key, repr(text), 'a finite number')
        return number

    def _error(self, joint: str, key: str, got: str, wanted: str) -> ContractError:
        return ContractError(f'{self.path}: joint {joint!r}: {key}: got {got}, wanted {wanted}')


class _Joints:
    """Gathers the attributes of each <joint> of <robot> and of the elements right below it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.joints: dict[str, dict[str, dict[str, str]]] = {}
        self._open: list[str] = []
        self._joint: dict[str, dict[str, str]] = {}
        parser = expat.ParserCreate()
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        # A document type is where entities are declared: none, and nothing can be blown up.
        parser.StartDoctypeDeclHandler = self._refuse_doctype
        if path.suffix == '.xacro':
            raise self._is_xacro()
        try:
            parser.Parse(self._read(), True)
        except expat.ExpatError as error:
            raise ContractError(f'{path}: is not valid XML: {error}') from error

    def _read(self) -> bytes:
        try:
            with self.path.open('rb') as file:
                data = file.read(LARGEST_BYTES + 1)
        except OSError as error:
            raise ContractError(f'{self.path}: cannot be read: {error}') from error
        if len(data) > LARGEST_BYTES:
            raise ContractError(
                f'{self.path}: is larger than {LARGEST_BYTES} bytes, wanted a URDF file'
            )
        return data

    def _start(self, element: str, attributes: dict[str, str]) -> None:
        if element.startswith('xacro:') or 'xmlns:xacro' in attributes:
            raise self._is_xacro()
        if not self._open and element != 'robot':
            raise ContractError(f'{self.path}: got <{element}>, wanted <robot>, the top of a URDF')
        if self._open == ['robot'] and element == 'joint':
            name = attributes.get('name', '')
            if name in self.joints:
                raise ContractError(f'{self.path}: joint {name!r} is there twice; keep one')
            self._joint = self.joints[name] = {element: attributes}
        elif self._open == ['robot', 'joint']:
            self._joint[element] = attributes
        self._open.append(element)

    def _end(self, element: str) -> None:
        self._open.pop()

    def _refuse_doctype(self, *_: object) -> None:
        raise ContractError(f'{self.path}: has a document type declaration; remove <!DOCTYPE ...>')

    def _is_xacro(self) -> ContractError:
        return ContractError(
            f'{self.path}: is a xacro file, wanted plain URDF: convert it with '
            f'`xacro {self.path.name} > robot.urdf` and name that file'
        )
