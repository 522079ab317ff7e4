# SPDX-License-Identifier: Apache-2.0
"""Write docs/parameters.md from the settings' declarations; `--check` only compares."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from qcfql_ros.nodes.launching import ROBOT_ARGUMENTS, SIM_ARGUMENTS
from qcfql_ros.parameters import LEARNER_NODE, POLICY_NODE, ROBOT_NODE, Parameter

PAGE = Path(__file__).resolve().parent.parent / 'docs' / 'parameters.md'
HEAD = """\
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


def page() -> str:
    """Return the whole page."""
    return HEAD + ''.join(
        (
            table('policy_node', POLICY_NODE),
            table('learner_node', LEARNER_NODE),
            table('gym_robot_node', ROBOT_NODE),
            table('robot.launch.py', ROBOT_ARGUMENTS),
            table('sim.launch.py', SIM_ARGUMENTS),
        )
    )


def main() -> int:
    """Write the page, or compare it."""
    if '--check' not in sys.argv:
        PAGE.write_text(page(), encoding='utf-8')
    elif not PAGE.exists() or PAGE.read_text(encoding='utf-8') != page():
        print(f'{PAGE} is not what the declarations say; run: make reference', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
