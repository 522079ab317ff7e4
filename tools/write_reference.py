# SPDX-License-Identifier: Apache-2.0
"""Write docs/parameters.md and docs/settings.md from the declarations; `--check` only compares."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from qcfql_ros.algorithm.config import METHODS, PRESETS, AlgorithmConfig
from qcfql_ros.cli.train_settings import setting_descriptions, shown
from qcfql_ros.nodes.launching import ROBOT_ARGUMENTS, SIM_ARGUMENTS
from qcfql_ros.parameters import LEARNER_NODE, POLICY_NODE, ROBOT_NODE, Parameter

DOCS = Path(__file__).resolve().parent.parent / 'docs'
SETTINGS_HEAD = """\
# Settings of the algorithm

Made by `make reference` from `qcfql_ros/algorithm/config.py`; `make lint` compares. Each is a flag
of `qcfql train` and a field of `QCFQLConfig`. A preset, then a method, then single settings go
over the defaults. [algorithm.md](algorithm.md) says what is computed with them.
"""
PARAMETERS_HEAD = """\
# Parameters

Made by `make reference` from `qcfql_ros/parameters.py`; `make lint` compares. A value out of range
is refused at start and at `ros2 param set`, with the reason.
"""


def allowed(parameter: Parameter) -> str:
    """Return the allowed values in words."""
    if parameter.choices:
        return ', '.join(f'`{choice}`' for choice in parameter.choices)
    bounds = [
        f'{sign} {bound if isinstance(bound, int) else format(bound, "g")}'
        for sign, bound in (('≥', parameter.low), ('≤', parameter.high))
        if bound is not None
    ]
    return ', '.join(bounds) or '-'


def default(parameter: Parameter) -> str:
    """Return the default as one would type it."""
    value = parameter.default
    if isinstance(value, bool):
        return f'`{str(value).lower()}`'
    return f'`{value}`' if value != '' else 'empty'


def table(title: str, parameters: Iterable[Parameter]) -> str:
    """Return one section."""
    lines = [
        f'\n## {title}\n',
        '| name | type | default | allowed | unit | set | what |',
        '|---|---|---|---|---|---|---|',
    ]
    for parameter in parameters:
        when = 'at start' if parameter.read_only else 'any time'
        lines.append(
            f'| `{parameter.name}` | {parameter.type.__name__} | {default(parameter)} '
            f'| {allowed(parameter)} | {parameter.unit or "-"} | {when} '
            f'| {parameter.description} |'
        )
    return '\n'.join(lines) + '\n'


def parameters_page() -> str:
    """Return docs/parameters.md."""
    return PARAMETERS_HEAD + ''.join(
        (
            table('policy_node', POLICY_NODE),
            table('learner_node', LEARNER_NODE),
            table('gym_robot_node', ROBOT_NODE),
            table('robot.launch.py', ROBOT_ARGUMENTS),
            table('sim.launch.py', SIM_ARGUMENTS),
        )
    )


def words_table(title: str, first: str, columns: dict[str, dict[str, Any]]) -> str:
    """Return what each word sets, a column a word; blank where it sets nothing."""
    names = [entry.name for entry in fields(AlgorithmConfig)]
    rows = [name for name in names if any(name in values for values in columns.values())]
    lines = [
        f'\n## {title}\n',
        f'| {first} | ' + ' | '.join(f'`{word}`' for word in columns) + ' |',
    ]
    lines.append('|---' * (len(columns) + 1) + '|')
    for name in rows:
        cells = [shown(values[name]) if name in values else '' for values in columns.values()]
        lines.append(f'| `{name}` | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines) + '\n'


def cell(text: str) -> str:
    """Return a docstring's words as a cell of a table."""
    return text.replace('``', '`').replace('|', r'\|')


def settings_page() -> str:
    """Return docs/settings.md."""
    texts = setting_descriptions()
    lines = ['\n| setting | default | what |', '|---|---|---|']
    for entry in fields(AlgorithmConfig):
        value = 'of the contract' if entry.default is MISSING else f'`{shown(entry.default)}`'
        lines.append(f'| `{entry.name}` | {value} | {cell(texts[entry.name])} |')
    return ''.join(
        (
            SETTINGS_HEAD,
            '\n'.join(lines) + '\n',
            words_table('Presets: `--preset NAME`', 'sets', PRESETS),
            words_table('Methods: `--method NAME`', 'sets', METHODS),
        )
    )


def main() -> int:
    """Write the pages, or compare them."""
    status = 0
    for name, text in (('parameters.md', parameters_page()), ('settings.md', settings_page())):
        page = DOCS / name
        if '--check' not in sys.argv:
            page.write_text(text, encoding='utf-8')
        elif not page.exists() or page.read_text(encoding='utf-8') != text:
            print(f'{page} is not what the declarations say; run: make reference', file=sys.stderr)
            status = 1
    return status


if __name__ == '__main__':
    sys.exit(main())
