# SPDX-License-Identifier: Apache-2.0
"""One mapping of a contract file, read key by key with errors that name the place."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from qcfql_ros.errors import ContractError, nearest

_Default = TypeVar('_Default')


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML that refuses a key written twice; PyYAML would keep the last one silently."""


def _mapping_without_duplicates(loader: _StrictLoader, node: yaml.MappingNode) -> dict:
    seen = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        line = key_node.start_mark.line + 1
        if not isinstance(key, str):
            raise ContractError(f'line {line}: key {key!r} is no text; put it in quotes')
        if key in seen:
            raise ContractError(f'line {line}: key {key!r} is there twice; keep one')
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(
    yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_duplicates
)


def read_yaml(path: Path) -> Any:
    """Return what the YAML file `path` holds.

    Raises:
        ContractError: it cannot be read or is not YAML.
    """
    try:
        return yaml.load(path.read_text(encoding='utf-8'), Loader=_StrictLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise ContractError(f'{path}: cannot be read: {error}') from error
    # PyYAML raises whatever its constructors meet: `!!int x`, `!!timestamp x`.
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError) as error:
        problem = ' '.join(str(error).split())
        raise ContractError(f'{path}: is not valid YAML: {problem}') from error
    except ContractError as error:
        raise ContractError(f'{path}: {error}') from None


class Section:
    """A mapping of the file whose keys are all known.

    Args:
        file: the name of the file, for errors.
        path: the keys that lead here, joined by dots; ``''`` at the top.
        data: what YAML gave.
        required: keys that must be there.
        optional: keys that may be there. Any other key is refused.

    Raises:
        ContractError: not a mapping, an unknown key, or a missing one.
    """

    def __init__(
        self,
        file: str,
        path: str,
        data: Any,
        required: Iterable[str] = (),
        optional: Iterable[str] = (),
    ) -> None:
        self.file, self.path = file, path
        required = tuple(required)
        known = (*required, *optional)
        if not isinstance(data, Mapping):
            where = f'{file}: {path}' if path else file
            raise ContractError(f'{where}: got {data!r}, wanted a mapping of {", ".join(known)}')
        for key in data:
            if key not in known:
                raise ContractError(
                    f'{self._where(str(key))}: unknown key {key!r}, wanted one of '
                    f'{", ".join(known)}{nearest(str(key), known)}'
                )
        for key in required:
            if key not in data:
                raise ContractError(f'{self._where(key)}: is missing')
        self.data = data

    def _where(self, key: str) -> str:
        return f'{self.file}: {self.path}.{key}' if self.path else f'{self.file}: {key}'

    def error(self, key: str, wanted: str) -> ContractError:
        """Return the error that says what `key` holds and what was wanted there."""
        return ContractError(f'{self._where(key)}: got {self.data.get(key)!r}, wanted {wanted}')

    def __contains__(self, key: str) -> bool:
        return key in self.data

    def text(self, key: str, default: str = '') -> str:
        """Return a non-empty text."""
        if key not in self.data:
            return default
        value = self.data[key]
        if not isinstance(value, str) or not value.strip():
            raise self.error(key, 'a text')
        return value

    def choice(self, key: str, choices: Iterable[str], default: str = '') -> str:
        """Return a text that is one of `choices`."""
        choices = tuple(choices)
        value = self.text(key, default)
        if value not in choices:
            raise self.error(key, f'one of {", ".join(choices)}{nearest(value, choices)}')
        return value

    def number(
        self,
        key: str,
        default: float | None = None,
        low: float = -math.inf,
        high: float = math.inf,
    ) -> float:
        """Return a finite number in ``[low, high]``."""
        if key not in self.data and default is not None:
            return default
        return self._finite(key, self.data[key], low, high)

    def numbers(self, key: str, count: int, default: float) -> tuple[float, ...]:
        """Return `count` finite numbers; one number in the file stands for all of them."""
        value = self.data.get(key, default)
        if not isinstance(value, list):
            return (self._finite(key, value),) * count
        if len(value) != count:
            raise self.error(key, f'{count} numbers, or one for all')
        return tuple(self._finite(key, number) for number in value)

    def numbers_or_nothing(self, key: str, count: int) -> tuple[float | None, ...]:
        """Return `count` finite numbers, None where the file has null or not the key.

        One number in the file stands for all of them.
        """
        value = self.data.get(key)
        if not isinstance(value, list):
            return (None if value is None else self._finite(key, value),) * count
        if len(value) != count:
            raise self.error(key, f'{count} numbers, or one for all')
        return tuple(None if number is None else self._finite(key, number) for number in value)

    def whole(self, key: str, low: int, high: int) -> int:
        """Return a whole number in ``[low, high]``."""
        return self._whole(key, self.data[key], low, high)

    def wholes(self, key: str, low: int, high: int) -> tuple[int, ...]:
        """Return different whole numbers in ``[low, high]``; empty if the key is not there."""
        if key not in self.data:
            return ()
        value = self.data[key]
        if not isinstance(value, list) or not value:
            raise self.error(key, 'a list of whole numbers')
        numbers = tuple(self._whole(key, number, low, high) for number in value)
        if len(set(numbers)) != len(numbers):
            raise self.error(key, 'numbers that are all different')
        return numbers

    def flag(self, key: str, default: bool = False) -> bool:
        """Return true or false."""
        value = self.data.get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, 'true or false')
        return value

    def names(self, key: str) -> tuple[str, ...]:
        """Return a non-empty list of different texts; empty only if the key is not there."""
        if key not in self.data:
            return ()
        value = self.data[key]
        if not isinstance(value, list) or not value:
            raise self.error(key, 'a list of names')
        for name in value:
            if not isinstance(name, str) or not name:
                raise self.error(key, f'a list of names (texts), but one is {name!r}')
        if len(set(value)) != len(value):
            raise self.error(key, 'names that are all different')
        return tuple(value)

    def section(
        self, key: str, required: Iterable[str] = (), optional: Iterable[str] = ()
    ) -> Section:
        """Return the mapping under `key`."""
        return Section(self.file, self._below(key), self.data[key], required, optional)

    def sections(
        self, key: str, required: Iterable[str] = (), optional: Iterable[str] = ()
    ) -> tuple[Section, ...]:
        """Return the mappings of the list under `key`, which must not be empty."""
        value = self.data[key]
        if not isinstance(value, list) or not value:
            raise self.error(key, 'a list of mappings')
        required, optional = tuple(required), tuple(optional)
        below = self._below(key)
        return tuple(
            Section(self.file, f'{below}[{i}]', item, required, optional)
            for i, item in enumerate(value)
        )

    def _below(self, key: str) -> str:
        return f'{self.path}.{key}' if self.path else key

    def _finite(
        self, key: str, value: Any, low: float = -math.inf, high: float = math.inf
    ) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(key, 'a number')
        if not math.isfinite(value):
            raise self.error(key, 'a finite number')
        if not low <= value <= high:
            raise self.error(key, f'a number from {low:g} to {high:g}')
        return float(value)

    def _whole(self, key: str, value: Any, low: int, high: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.error(key, f'whole numbers from {low} to {high}')
        return value
