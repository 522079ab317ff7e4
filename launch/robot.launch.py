# SPDX-License-Identifier: Apache-2.0
"""Policy and learner: `ros2 launch qcfql_ros robot.launch.py contract:=... model:=...`.

The policy node starts itself (its parameter `autostart`). If it fails, the launch ends and says
so; the learner may fail and the robot goes on. Where the contract says `safety.watchdog` and the
pacing is `wall`, watchdog_node is started too, and again if it ends; the policy waits for it.
"""

import sys
from pathlib import Path

from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchDescription
from qcfql_ros.cli.shipped_models import find_model
from qcfql_ros.contract.load import load_contract
from qcfql_ros.errors import ParameterError, QcfqlError
from qcfql_ros.nodes.launching import (
    ROBOT_ARGUMENTS,
    check_arguments,
    needs_watchdog,
    run_folder,
)

# launch's own 5 s are too short for the learner: it closes the bag and keeps a checkpoint.
ORDERLY_END_S = '30'


def declare(parameter):
    """Return the launch argument of a setting."""
    default = parameter.default
    return DeclareLaunchArgument(
        parameter.name,
        default_value=str(default).lower() if isinstance(default, bool) else str(default),
        description=parameter.description,
        choices=list(parameter.choices) or None,
    )


def is_named_on_the_command_line():
    """Whether `ros2 launch` was given this very file; else another one includes it."""
    return any(Path(word).name == Path(__file__).name for word in sys.argv)


def on_exit(name, ends_all):
    """Return what to do when a node ends: status 2 is a wrong setting, which no restart mends."""

    def react(event, context):
        if event.returncode == 0 or context.is_shutdown:
            return None
        if event.returncode == 2 or ends_all:
            raise RuntimeError(f'{name} ended with status {event.returncode}; it said why above')
        return [LogInfo(msg=f'{name} ended with status {event.returncode}; the robot goes on')]

    return react


def start(context):
    """Check the arguments and return the nodes."""
    argv = context.argv if is_named_on_the_command_line() else ()
    texts = {p.name: LaunchConfiguration(p.name).perform(context) for p in ROBOT_ARGUMENTS}
    try:
        values = check_arguments(ROBOT_ARGUMENTS, texts, argv)
        for name in ('contract', 'model'):
            if not values[name]:
                raise ParameterError(f'launch argument {name!r} is missing: give {name}:=...')
        contract = load_contract(values['contract'])
        model = find_model(values['model'])
        state = model.require_state() if values['learn'] else ''
    except QcfqlError as error:
        raise RuntimeError(str(error)) from None
    shared = {
        'contract': str(Path(contract.file).absolute()),
        'pacing': values['pacing'],
        'seed': values['seed'],
        'use_sim_time': values['use_sim_time'],
    }
    policy = {'model': str(model.policy.absolute()), 'device': values['device'], 'autostart': True}
    demos = values['demos'] or (model.demonstrations and model.demonstrations.absolute())
    learner = {
        'run_dir': str(run_folder(values['run_dir'])),
        'model': str(state and state.absolute()),
        'learn': values['learn'],
        'demos': str(demos or ''),
        'demo_fraction': values['demo_fraction'],
        'behavior_weighting': values['behavior_weighting'],
    }

    def node(name, parameters, ends_all, respawn=False):
        return Node(
            package='qcfql_ros',
            executable=f'{name}_node',
            name=name,
            namespace=values['namespace'],
            parameters=[parameters],
            respawn=respawn,
            respawn_delay=1.0,
            output='screen',
            emulate_tty=True,
            sigterm_timeout=ORDERLY_END_S,
            sigkill_timeout=ORDERLY_END_S,
            on_exit=on_exit(f'{name}_node', ends_all),
        )

    nodes = [node('learner', shared | learner, False), node('policy', shared | policy, True)]
    if needs_watchdog(contract, values['pacing']):
        watchdog = {key: shared[key] for key in ('contract', 'use_sim_time')}
        nodes.append(node('watchdog', watchdog, False, respawn=True))
    return nodes


def generate_launch_description():
    """Return what `ros2 launch` runs."""
    return LaunchDescription([*map(declare, ROBOT_ARGUMENTS), OpaqueFunction(function=start)])
