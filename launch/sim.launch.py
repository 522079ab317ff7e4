# SPDX-License-Identifier: Apache-2.0
"""A simulated robot with policy and learner: `ros2 launch qcfql_ros sim.launch.py`.

By default in lockstep, with the contract of the robot's own name. robot.launch.py beside this
file starts policy and learner.
"""

import sys
from pathlib import Path

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchDescription
from qcfql_ros.contract.load import load_contract
from qcfql_ros.errors import QcfqlError
from qcfql_ros.nodes.launching import ROBOT_ARGUMENTS, SIM_ARGUMENTS, check_arguments

DEFAULTS = {'pacing': 'lockstep', 'model': 'ur5e_cube_offline'}


def declare(parameter):
    """Return the launch argument of a setting."""
    default = DEFAULTS.get(parameter.name, parameter.default)
    return DeclareLaunchArgument(
        parameter.name,
        default_value=str(default).lower() if isinstance(default, bool) else str(default),
        description=parameter.description,
        choices=list(parameter.choices) or None,
    )


def is_named_on_the_command_line():
    """Whether `ros2 launch` was given this very file; else another one includes it."""
    return any(Path(word).name == Path(__file__).name for word in sys.argv)


def react(event, context):
    """End the launch when the simulated robot does: there is nothing left to drive."""
    if event.returncode == 0 or context.is_shutdown:
        return None
    raise RuntimeError(f'gym_robot_node ended with status {event.returncode}; it said why above')


def start(context):
    """Check the arguments and return the robot and what drives it."""
    argv = context.argv if is_named_on_the_command_line() else ()
    texts = {p.name: LaunchConfiguration(p.name).perform(context) for p in SIM_ARGUMENTS}
    try:
        values = check_arguments(SIM_ARGUMENTS, texts, argv)
        contract = load_contract(values['contract'] or values['robot'])
    except QcfqlError as error:
        raise RuntimeError(str(error)) from None
    held = values['wait_for_credits'] and values['learn'] and values['pacing'] == 'lockstep'
    robot = Node(
        package='qcfql_ros',
        executable='gym_robot_node',
        name='robot',
        namespace=values['namespace'],
        parameters=[
            {
                'robot': values['robot'],
                'contract': str(Path(contract.file).absolute()),
                'pacing': values['pacing'],
                'seed': values['seed'],
                'wait_for_credits': held,
                'expected_subscribers': 2,  # the policy and the recorder
                'use_sim_time': values['use_sim_time'],
            }
        ],
        output='screen',
        emulate_tty=True,
        on_exit=react,
    )
    passed_on = {p.name: texts[p.name] for p in ROBOT_ARGUMENTS} | {'contract': contract.file}
    drivers = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(Path(__file__).with_name('robot.launch.py'))),
        launch_arguments=passed_on.items(),
    )
    return [drivers, robot]


def generate_launch_description():
    """Return what `ros2 launch` runs."""
    return LaunchDescription([*map(declare, SIM_ARGUMENTS), OpaqueFunction(function=start)])
