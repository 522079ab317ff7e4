# SPDX-License-Identifier: Apache-2.0
"""What the launch files share: arguments made from the nodes' settings, and their check.

`ros2 launch` takes arguments that no launch file declares without a word, and passes every value
on as text. These functions refuse both an unknown name and a value that its node would refuse.
Imports nothing of ROS.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from qcfql_ros.contract.schema import Contract
from qcfql_ros.errors import ParameterError, nearest
from qcfql_ros.parameters import (
    CONTRACT,
    LEARNER_NODE,
    PACING,
    POLICY_NODE,
    ROBOT_NODE,
    SEED,
    Parameter,
)

# What ros2 launch adds to the arguments by itself.
_OF_ROS2_LAUNCH = ('launch-prefix', 'launch-prefix-filter')


def _of(table: Iterable[Parameter], name: str) -> Parameter:
    return next(parameter for parameter in table if parameter.name == name)


ROBOT_ARGUMENTS = (
    CONTRACT,
    Parameter('model', str, '', 'Policy file or folder, or the name of a shipped model.'),
    Parameter('namespace', str, '', 'Namespace of every node and topic.'),
    Parameter('learn', bool, True, 'Train while recording; false only records.'),
    Parameter(
        'demos', str, '', "Recorded bag mixed into the buffer; empty takes the model's, if any."
    ),
    _of(LEARNER_NODE, 'demo_fraction'),
    _of(LEARNER_NODE, 'behavior_weighting'),
    Parameter('use_sim_time', bool, False, 'Take ROS time from /clock.'),
    Parameter('run_dir', str, '', 'Folder of this run; empty makes runs/<time>.'),
    PACING,
    _of(POLICY_NODE, 'device'),
    SEED,
)
SIM_ARGUMENTS = (
    *ROBOT_ARGUMENTS,
    _of(ROBOT_NODE, 'robot'),
    Parameter(
        'wait_for_credits',
        bool,
        True,
        'Hold the simulator to the pace of learning (lockstep with learn only).',
    ),
)


def check_arguments(
    table: Sequence[Parameter], texts: dict[str, str], argv: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the launch arguments as values of their types.

    Args:
        table: what the launch file declares.
        texts: value of each declared argument, as text.
        argv: ``name:=value`` words of the command line, to find undeclared names in; empty when
            the file was included by another one, whose arguments they are.

    Raises:
        ParameterError: an unknown name, a value of the wrong type or out of range, or values
            that exclude each other.
    """
    known = {parameter.name: parameter for parameter in table}
    for word in argv:
        name, separator, _ = word.partition(':=')
        if separator and name not in known and name not in _OF_ROS2_LAUNCH:
            hint = nearest(name, known) or f'; arguments are {", ".join(known)}'
            raise ParameterError(f'unknown launch argument {name!r}{hint}')
    values = {name: known[name].check(_parse(known[name], texts[name])) for name in known}
    # At wall rate ticks are a period of the system's clock apart, whatever /clock does: where that
    # is not as fast, steps would be late, and dropped.
    if values['use_sim_time'] and values['learn'] and values['pacing'] == 'wall':
        raise ParameterError(
            'use_sim_time:=true with pacing:=wall and learn:=true would learn little or nothing: '
            'ticks of the wall clock do not keep to /clock; give pacing:=lockstep or learn:=false'
        )
    return values


def _parse(parameter: Parameter, text: str) -> Any:
    """Return `text` as the parameter's type where it can be read so, else unchanged."""
    if parameter.type is bool:
        return {'true': True, 'false': False, '1': True, '0': False}.get(text.lower(), text)
    if parameter.type in (int, float):
        try:
            return parameter.type(text)
        except ValueError:
            return text
    return text


def needs_watchdog(contract: Contract, pacing: str) -> bool:
    """Whether watchdog_node is to be started: a simulator in lockstep waits by itself."""
    return pacing == 'wall' and contract.safety.watchdog_timeout_s is not None


def run_folder(run_dir: str) -> Path:
    """Return the absolute folder of a run; without a name one after the time."""
    if run_dir:
        return Path(run_dir).expanduser().absolute()
    stem = datetime.datetime.now().strftime('%Y-%m-%d_%H-%M-%S')
    return Path('runs').absolute() / stem
