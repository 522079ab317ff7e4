# SPDX-License-Identifier: Apache-2.0
"""Write pages and parameter files from the declarations; `--check` only compares.

The pages are docs/parameters.md and docs/settings.md, the files config/<node>.params.yaml.
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from qcfql_ros.algorithm.config import METHODS, PRESETS, AlgorithmConfig
from qcfql_ros.cli.train_settings import setting_descriptions, shown
from qcfql_ros.nodes.launching import ROBOT_ARGUMENTS, SIM_ARGUMENTS
from qcfql_ros.parameters import (
    LEARNER_NODE,
    POLICY_NODE,
    ROBOT_NODE,
    WATCHDOG_NODE,
    Parameter,
)

ROOT = Path(__file__).resolve().parent.parent
NODES = {
    'policy_node': ('policy', POLICY_NODE),
    'learner_node': ('learner', LEARNER_NODE),
    'watchdog_node': ('watchdog', WATCHDOG_NODE),
    'gym_robot_node': ('robot', ROBOT_NODE),
}
SETTINGS_HEAD = """\
# Settings of the algorithm

Made by `make reference` from `qcfql_ros/algorithm/config.py`; `make lint` compares. Each is a flag
of `qcfql train` and a field of `QCFQLConfig`. A preset, then a method, then single settings go
over the defaults. [algorithm.md](algorithm.md) says what is computed with them.
"""
PARAMETERS_HEAD = """\
# Parameters

Made by `make reference` from `qcfql_ros/parameters.py`; `make lint` compares. A value out of range
is refused at start and at `ros2 param set`, with the reason. What takes effect at start is
read-only from then on. Parameters that are set in one call (`ros2 param load`,
`set_parameters_atomically`) are taken or refused together; the node checks them against each
other, the contract and the policy too.

`config/<node>.params.yaml` holds the defaults of each node, to copy and change:
`policy_node --ros-args --params-file policy_node.params.yaml`.
"""
YAML_HEAD = """\
# Parameters of {node} with their defaults: a copy of this file, changed, is what
# `{node} --ros-args --params-file FILE` takes. Made by `make reference`.
/**/{name}:
  ros__parameters:
"""


def allowed(parameter: Parameter) -> str:
    """Return the allowed values in words."""
    if parameter.choices:
        return ', '.join(f'`{choice}`' if choice else 'empty' for choice in parameter.choices)
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
        '| name | type | default | allowed | unit | takes effect | what |',
        '|---|---|---|---|---|---|---|',
    ]
    for parameter in parameters:
        lines.append(
            f'| `{parameter.name}` | {parameter.type.__name__} | {default(parameter)} '
            f'| {allowed(parameter)} | {parameter.unit or "-"} | {parameter.effect} '
            f'| {parameter.description} |'
        )
    return '\n'.join(lines) + '\n'


def parameters_page() -> str:
    """Return docs/parameters.md."""
    return PARAMETERS_HEAD + ''.join(
        (
            *(table(node, parameters) for node, (_, parameters) in NODES.items()),
            table('robot.launch.py', ROBOT_ARGUMENTS),
            table('sim.launch.py', SIM_ARGUMENTS),
        )
    )


def parameter_file(node: str) -> str:
    """Return config/<node>.params.yaml."""
    name, parameters = NODES[node]
    lines = []
    for parameter in parameters:
        limits = f' Allowed: {allowed(parameter).replace("`", "")}' if limited(parameter) else ''
        unit = f' [{parameter.unit}]' if parameter.unit else ''
        comment = f'{parameter.description}{unit}{limits}. Takes effect: {parameter.effect}.'
        comment = comment.replace('..', '.')
        lines += textwrap.wrap(comment, 95, initial_indent='    # ', subsequent_indent='    # ')
        lines.append(f'    {parameter.name}: {json.dumps(parameter.default)}')
    return YAML_HEAD.format(node=node, name=name) + '\n'.join(lines) + '\n'


def limited(parameter: Parameter) -> bool:
    """Whether not every value of its type is allowed."""
    return allowed(parameter) != '-'


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


def written() -> dict[Path, str]:
    """Return what each file must hold."""
    files = {
        ROOT / 'docs' / 'parameters.md': parameters_page(),
        ROOT / 'docs' / 'settings.md': settings_page(),
    }
    for node in NODES:
        files[ROOT / 'config' / f'{node}.params.yaml'] = parameter_file(node)
    return files


def main() -> int:
    """Write the files, or compare them."""
    status = 0
    for file, text in written().items():
        if '--check' not in sys.argv:
            file.write_text(text, encoding='utf-8')
        elif not file.exists() or file.read_text(encoding='utf-8') != text:
            print(f'{file} is not what the declarations say; run: make reference', file=sys.stderr)
            status = 1
    return status


if __name__ == '__main__':
    sys.exit(main())
