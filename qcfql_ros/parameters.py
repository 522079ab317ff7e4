# SPDX-License-Identifier: Apache-2.0
"""Every setting of the nodes, declared once.

ROS parameters, command-line flags and the reference page are made from these tables. Whoever
reads a value reads it by the name used here; a name that nothing reads is a failing test.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from qcfql_ros.errors import ParameterError, nearest

AT_START, NEXT_CHUNK, NEXT_EPISODE = 'at start', 'next chunk', 'next episode'
NEXT_REPORT = 'next report'
EFFECTS = (AT_START, NEXT_CHUNK, NEXT_EPISODE, NEXT_REPORT)
TYPE_WORDS = {bool: 'true or false', int: 'an integer', float: 'a number', str: 'a text'}


@dataclass(frozen=True)
class Parameter:
    """One setting.

    Attributes:
        name: as in ROS and, with two dashes before it, on the command line.
        type: bool, int, float or str.
        default: of that type, and inside the bounds.
        description: one sentence for the reference page.
        unit: for people; the name carries it too (`_s`, `_hz`).
        low, high: inclusive bounds of a number; None is open.
        choices: the only texts allowed; empty is any.
        effect: when a change takes effect; what does so 'at start' cannot be changed later.
    """

    name: str
    type: type
    default: Any
    description: str
    unit: str = ''
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    effect: str = AT_START

    def __post_init__(self) -> None:
        """Raise ParameterError for a default that the declaration itself forbids."""
        if self.type not in TYPE_WORDS or self.effect not in EFFECTS:
            raise ParameterError(
                f'parameter {self.name}: type {self.type}, effect {self.effect!r}: not supported'
            )
        self.check(self.default)

    @property
    def read_only(self) -> bool:
        """Whether `ros2 param set` is refused."""
        return self.effect == AT_START

    @property
    def key(self) -> str:
        """The name as a Python identifier: dots, which ROS groups names by, as underscores."""
        return self.name.replace('.', '_')

    def check(self, value: Any) -> Any:
        """Return `value` as this parameter's type; raise ParameterError saying what is wrong."""
        if self.type is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        kind: type = type(value)  # kept apart: `type(value) is not ...` would narrow it to object
        if kind is not self.type:
            raise ParameterError(
                f'parameter {self.name} is {value!r} ({kind.__name__}); '
                f'wanted {TYPE_WORDS[self.type]}'
            )
        if self.choices and value not in self.choices:
            wanted = ', '.join(choice or 'an empty text' for choice in self.choices)
            raise ParameterError(
                f'parameter {self.name} is {value!r}; wanted one of: {wanted}'
                + nearest(value, self.choices)
            )
        # `not (low <= value)` rather than `value < low`: a NaN must not pass.
        if self.low is not None and not value >= self.low:
            raise ParameterError(f'parameter {self.name} is {value}; wanted >= {self.low:g}')
        if self.high is not None and not value <= self.high:
            raise ParameterError(f'parameter {self.name} is {value}; wanted <= {self.high:g}')
        return value


def check_values(table: Iterable[Parameter], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults of `table` overlaid with `values`, each checked.

    Raises:
        ParameterError: an unknown name, a wrong type or a value out of range.
    """
    known = {parameter.name: parameter for parameter in table}
    for name in values:
        if name not in known:
            raise ParameterError(f'unknown parameter {name!r}' + nearest(name, known))
    return {name: p.check(values.get(name, p.default)) for name, p in known.items()}


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
        0,
        'Priority of the control thread under SCHED_FIFO, if the system allows it; 0 does not '
        'ask (wall pacing only).',
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
