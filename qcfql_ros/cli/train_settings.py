# SPDX-License-Identifier: Apache-2.0
"""The flags of `qcfql train` that are fields of `AlgorithmConfig`, one each."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, get_type_hints

from qcfql_ros.algorithm.config import METHODS, PRESETS, AlgorithmConfig, method, preset

_FROM_CONTRACT = ('state_dim', 'action_dim')


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add ``--preset``, ``--method`` and a flag for each setting, described by its docstring.

    A bool `name` is set by ``--name`` and ``--no_name``. What is not given stays None.
    """
    parser.add_argument('--preset', help=', '.join(PRESETS))
    parser.add_argument('--method', help=f'{", ".join(METHODS)}; over the preset')
    group = parser.add_argument_group('settings', 'each over what preset and method say')
    kinds, texts = get_type_hints(AlgorithmConfig), setting_descriptions()
    for name, default in _settings():
        text = f'{texts[name]} (default {shown(default)})'.replace('%', '%%')
        if kinds[name] is bool:
            group.add_argument(f'--{name}', action='store_true', default=None, help=text)
            off = (f'--no_{name}', f'--no-{name}')
            group.add_argument(*off, dest=name, action='store_false', default=None)
        elif kinds[name] in (int, float, str):
            group.add_argument(f'--{name}', type=kinds[name], help=text)
        else:
            group.add_argument(f'--{name}', type=int, nargs='+', help=text)


def chosen_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what preset, then method, then flags set; raises ParameterError if it is wrong."""
    values = preset(arguments.preset) if arguments.preset else {}
    values |= method(arguments.method) if arguments.method else {}
    for name, _ in _settings():
        if getattr(arguments, name) is not None:
            values[name] = getattr(arguments, name)
    AlgorithmConfig(1, 1, **values)  # refuse wrong values before any data is read
    return values


def differences(config: AlgorithmConfig, others: AlgorithmConfig | None = None) -> str:
    """Return the settings in which `config` differs, as ``name value (the other value)``.

    Args:
        config: the settings.
        others: to compare with; None for the defaults.
    """
    theirs = dict(_settings()) if others is None else others.to_dict()
    found = [
        f'{name} {shown(getattr(config, name))} ({shown(theirs[name])})'
        for name in theirs
        if shown(getattr(config, name)) != shown(theirs[name])
    ]
    return ', '.join(found)


def _settings() -> Iterator[tuple[str, Any]]:
    """Yield the name and default of each setting."""
    for entry in fields(AlgorithmConfig):
        if entry.name not in _FROM_CONTRACT:
            yield entry.name, entry.default


def setting_descriptions() -> dict[str, str]:
    """Return what the docstring of `AlgorithmConfig` says of each attribute."""
    text = inspect.getdoc(AlgorithmConfig) or ''
    entries = re.findall(r'^    (\w+): (.*(?:\n {8}.*)*)', text, re.MULTILINE)
    return {name: ' '.join(words.split()) for name, words in entries}


def shown(value: Any) -> str:
    if isinstance(value, bool):
        return 'on' if value else 'off'
    if isinstance(value, tuple | list):
        return ' '.join(str(size) for size in value)
    return f'{value:g}' if isinstance(value, float) else str(value)
