# SPDX-License-Identifier: Apache-2.0
"""Every setting of the nodes, declared once.

ROS parameters, command-line flags and the reference page are made from these tables. Whoever
reads a value reads it by the name used here; a name that nothing reads is a failing test.
"""

from __future__ import annotations

from qcfql_ros.parameter import (
    NEXT_CHUNK,
    NEXT_EPISODE,
    NEXT_REPORT,
    Parameter,
    check_values,
)

__all__ = [
    'CONTRACT',
    'LEARNER_NODE',
    'PACING',
    'POLICY_NODE',
    'ROBOT_NODE',
    'SEED',
    'WATCHDOG_NODE',
    'Parameter',
    'check_values',
]

CONTRACT = Parameter(
    'contract', str, '', 'Contract file, or the name of one that the package ships.'
)
SEED = Parameter('seed', int, 0, 'Seed of every random draw.', low=0, high=2**31 - 1)
PACING = Parameter(
    'pacing',
    str,
    'wall',
    'wall: real time, for robots. lockstep: tick by tick, for simulators.',
    choices=('wall', 'lockstep'),
)


def _threshold(name: str, default: float, unit: str) -> Parameter:
    what, measure, level = name.split('.')
    of = {'periodicity': 'the rate of commands', 'execution_time': 'what a command takes'}[what]
    return Parameter(
        f'diagnostics.threshold.{name}',
        float,
        default,
        f'Above this, the {measure.replace("_", " ")} of {of} over a second is '
        f'{"a warning" if level == "warn" else "an error"} (wall pacing only).',
        unit=unit,
        low=0.0,
        effect=NEXT_REPORT,
    )


POLICY_NODE = (
    CONTRACT,
    Parameter('model', str, '', 'Policy file (safetensors) to start with.'),
    PACING,
    Parameter('device', str, 'auto', 'Where inference runs.', choices=('auto', 'cpu', 'cuda')),
    SEED,
    Parameter(
        'lead_s',
        float,
        0.010,
        "A chunk's observation is taken this long before its first tick (wall pacing only).",
        unit='s',
        low=0.0,
        high=1.0,
        effect=NEXT_EPISODE,
    ),
    Parameter(
        'adaptive_lead',
        bool,
        False,
        'Fit the lead to what planning took lately, from episode to episode (wall pacing only).',
        effect=NEXT_EPISODE,
    ),
    Parameter(
        'execution_horizon',
        int,
        0,
        'Rows of a chunk that are played before the next one takes over; 0 plays all.',
        low=0,
        high=64,
    ),
    Parameter(
        'limits_scale',
        float,
        1.0,
        "On the contract's velocity and acceleration limits.",
        low=0.01,
        high=1.0,
        effect=NEXT_CHUNK,
    ),
    Parameter(
        'noise_scale',
        float,
        1.0,
        'On the noise that a plan starts from; 0 plans from the mean of it.',
        low=0.0,
        high=2.0,
        effect=NEXT_CHUNK,
    ),
    Parameter(
        'num_action_samples',
        int,
        0,
        'Candidates that a best-of-N policy chooses from; 0 as trained.',
        low=0,
        high=1024,
        effect=NEXT_CHUNK,
    ),
    Parameter(
        'on_late',
        str,
        '',
        'What the robot does while a chunk is late; empty as the contract says.',
        choices=('', 'hold', 'repeat'),
        effect=NEXT_CHUNK,
    ),
    Parameter('threads', int, 1, 'CPU threads of torch.', low=1, high=256),
    Parameter(
        'realtime_priority',
        int,
        50,
        'Priority of the control thread under SCHED_FIFO, if the system allows it, as '
        "ros2_control's controller manager asks; 0 does not ask (wall pacing only).",
        low=0,
        high=99,
    ),
    Parameter(
        'cpu_affinity',
        str,
        '',
        "Processors that the control thread may use, as '2,3'; empty is all (wall pacing only).",
    ),
    Parameter(
        'lock_memory',
        bool,
        False,
        'Keep pages of this process in memory, if the system allows it (wall pacing only).',
    ),
    Parameter('autostart', bool, True, 'Configure and activate without being asked.'),
    Parameter(
        'state_dir',
        str,
        '',
        'Folder that keeps a halt over restarts; empty takes $ROS_HOME/qcfql_ros, or '
        '~/.ros/qcfql_ros, if the contract says `after_crash: wait`, else memory only.',
    ),
    _threshold('periodicity.mean_error.warn', 5.0, 'Hz'),
    _threshold('periodicity.mean_error.error', 10.0, 'Hz'),
    _threshold('periodicity.standard_deviation.warn', 5.0, 'Hz'),
    _threshold('periodicity.standard_deviation.error', 10.0, 'Hz'),
    _threshold('execution_time.mean_error.warn', 10_000.0, 'us'),
    _threshold('execution_time.mean_error.error', 20_000.0, 'us'),
    _threshold('execution_time.standard_deviation.warn', 10_000.0, 'us'),
    _threshold('execution_time.standard_deviation.error', 20_000.0, 'us'),
)

WATCHDOG_NODE = (CONTRACT,)

LEARNER_NODE = (
    CONTRACT,
    Parameter(
        'run_dir',
        str,
        '',
        'Folder of this run: bag, policies, checkpoints and logs are written here.',
    ),
    Parameter('learn', bool, True, 'Train while recording; false only records.'),
    Parameter('model', str, '', 'Training state to go on learning from.'),
    Parameter(
        'demos', str, '', 'Recorded bag mixed into the buffer, several with : between; or none.'
    ),
    Parameter(
        'demo_fraction',
        float,
        0.5,
        'Share of each batch drawn from the demonstrations; -1 draws uniformly over all steps.',
        low=-1.0,
        high=1.0,
    ),
    Parameter(
        'behavior_weighting',
        str,
        'model',
        'Which practice the behaviour policy imitates: uniform, all; success, what succeeded; '
        'value, what the critics think better than its own; model, as it was trained before.',
        choices=('model', 'uniform', 'success', 'value'),
    ),
    Parameter(
        'utd_ratio',
        float,
        1.0,
        'Updates per environment step.',
        unit='updates/step',
        low=0.001,
        high=100.0,
    ),
    Parameter(
        'warmup_steps', int, 1000, 'Steps in the buffer before the first update.', 'steps', low=0
    ),
    Parameter(
        'publish_every_s',
        float,
        10.0,
        'Time between two policy versions.',
        unit='s',
        low=0.1,
        high=86400.0,
    ),
    Parameter(
        'capacity',
        int,
        1_000_000,
        'Steps of practice that the replay holds; the oldest make room.',
        unit='steps',
        low=1000,
        high=2**31 - 1,
    ),
    Parameter(
        'split_mb',
        int,
        512,
        'A file of the bag is closed and the next begun at this size,',
        unit='MB',
        low=1,
        high=1_000_000,
    ),
    Parameter('split_s', float, 3600.0, 'and at this age; 0 for any age.', 's', low=0.0, high=1e9),
    Parameter(
        'spool_mb',
        int,
        256,
        'Messages kept in memory while the disk stalls; recording stops beyond this size,',
        unit='MB',
        low=1,
        high=1_000_000,
    ),
    Parameter(
        'spool_s',
        float,
        30.0,
        'and when a message has waited this long for the disk.',
        unit='s',
        low=0.1,
        high=3600.0,
    ),
    Parameter(
        'keep_mb',
        int,
        0,
        'The oldest closed files of the bag are deleted when it is larger, but none that the '
        'replay still holds; 0 keeps all.',
        unit='MB',
        low=0,
    ),
    SEED,
    PACING,
)

ROBOT_NODE = (
    Parameter(
        'robot',
        str,
        'ur5e_cube',
        'Which simulated robot.',
        choices=('ur5e_cube', 'point_reach'),
    ),
    CONTRACT,
    PACING,
    SEED,
    Parameter('episodes', int, 0, 'Stop after this many episodes; 0 goes on.', low=0),
    Parameter(
        'mode',
        str,
        'task',
        'task: reward and success of the task. play: as the demonstrations were recorded.',
        choices=('task', 'play'),
    ),
    Parameter(
        'wait_for_credits',
        bool,
        False,
        "Execute no tick beyond the learner's credits (topic `credits`).",
    ),
    Parameter(
        'expected_subscribers',
        int,
        1,
        'Subscribers on every sensor topic to wait for before the first tick.',
        low=0,
        high=64,
    ),
    Parameter(
        'expected_listeners',
        int,
        0,
        'Further subscribers on the outcome topic to wait for: whoever counts episodes.',
        low=0,
        high=64,
    ),
)
