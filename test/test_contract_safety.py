# SPDX-License-Identifier: Apache-2.0
"""Limits, watchdogs and command rates of a contract: read, or refused with their place."""

from __future__ import annotations

import math

import pytest
from contract_examples import EXAMPLES, example

from qcfql_ros.contract import load_contract
from qcfql_ros.contract.schema import Measured, Workspace
from qcfql_ros.errors import ContractError

URDF = """<robot name="arm">
  <joint name="shoulder" type="revolute"><limit lower="-2.5" upper="2.5" velocity="1.5"/></joint>
  <joint name="elbow" type="revolute"><limit lower="0" upper="2.5" velocity="1.5"/></joint>
  <joint name="left_finger" type="prismatic"><limit upper="1" velocity="0.5" effort="9"/></joint>
  <joint name="right_finger" type="prismatic"><limit upper="1" velocity="0.5"/></joint>
</robot>"""
SHIPPED_HASHES = {
    'ur5e_cube': '74ce8807abdc618d89bdf3061b4db31bd5e80976d0f8fdcb23ef837372366e6e',
    'point_reach': '1f37ff7d7ce8a449fa7769a2ee40f7190fc24e27070651ad13dbfab7bc2ff90b',
}


def put(path, value):
    """Return a change that sets (or, with `...`, removes) what lies at a dotted path."""

    def change(data):
        *above, last = [int(key) if key.isdigit() else key for key in path.split('/')]
        for key in above:
            data = data.setdefault(key, {}) if isinstance(data, dict) else data[key]
        if value is ...:
            del data[last]
        else:
            data[last] = value

    return change


def both(*changes):
    def change(data):
        for one in changes:
            one(data)

    return change


@pytest.fixture
def load(tmp_path):
    (tmp_path / 'arm.urdf').write_text(URDF)
    return lambda name, *changes: example(tmp_path, name, both(*changes) if changes else None)


def test_every_example_of_the_page_loads(load):
    assert set(EXAMPLES) == {'two_joint_arm', 'hand', 'servo_arm'}
    for name in EXAMPLES:
        assert load(name).name == name


def test_limits_are_one_number_for_each_action(load):
    safety = load('servo_arm').safety
    assert safety.low == (-0.2, -0.2, -0.1, -math.inf)
    assert safety.high == (0.2, 0.2, 0.1, math.inf)
    assert safety.velocity == (math.inf,) * 4
    assert safety.acceleration == (1.0, 1.0, 1.0, 4.0)
    assert safety.soft_start_s == 0.0
    assert load('two_joint_arm').safety.velocity == (1.0, 1.0)


def test_a_workspace_knows_where_it_is_measured_and_what_moves_it(load):
    assert load('servo_arm').safety.workspace == Workspace(
        stream='tool',
        places=(0, 1, 2),
        offset=(-0.4, 0.0, 0.0),
        scale=(10.0, 10.0, 10.0),
        actions=(0, 1, 2),
        low=(0.2, -0.3, 0.02),
        high=(0.6, 0.3, 0.4),
    )

    def swap(data):
        state = data['features']['observation.state']
        state[0]['names'] = ['z', 'y', 'x']
        state.reverse()

    assert load('servo_arm', swap).safety.workspace.places == (4, 3, 2)
    missing = put('action/commands/0/fields/1/field', 'angular.x')
    assert load('servo_arm', missing).safety.workspace.actions == (0, -1, 2)


def test_a_commanded_position_knows_where_it_is_measured(load):
    left, right = load('hand').action.commands[0].fields
    assert left.measured == Measured('joints', 0, 0.0, 10.0)
    assert right.measured == Measured('joints', 1, 0.0, 10.0)
    first = {'stream': 'joints', 'field': 'velocity', 'names': ['left_finger', 'right_finger']}

    def change(data):
        state = data['features']['observation.state']
        state.insert(0, first)
        state[1]['offset'] = [0.5, 0.25]

    assert load('hand', change).action.commands[0].fields[1].measured == Measured(
        'joints', 3, 0.25, 10.0
    )


def test_an_absolute_position_has_no_hold_number_and_what_moves_has(load):
    assert all(map(math.isnan, load('hand').action.hold))
    assert load('two_joint_arm').action.hold == (0.0, 0.0)
    mixed = load(
        'hand',
        put('action/commands/0/fields/1/field', 'velocity'),
        put('action/commands/0/fields/1/offset', 0.0),
        put('safety/limits/right', {'low': -1.0}),
        put('action/hold', [None, 0.5]),
    )
    assert math.isnan(mixed.action.hold[0])
    assert mixed.action.hold[1] == 0.5


def test_defaults_are_those_of_a_real_robot_and_the_shipped_ones_are_simulators(load):
    hand = load('hand', put('safety/limits', ...)).safety
    assert (hand.soft_start_s, hand.stop_after_s) == (1.0, 1.0)
    assert (hand.resume_after_stale, hand.on_late) == (False, 'hold')
    assert hand.watchdog_timeout_s == 0.2
    assert load('servo_arm').safety.watchdog_timeout_s is None
    for name in SHIPPED_HASHES:
        safety = load_contract(name).safety
        assert safety.resume_after_stale
        assert safety.watchdog_timeout_s is None
        assert safety.soft_start_s == 0.0


def test_commands_per_tick_is_the_ratio_of_the_rates(load):
    assert load('hand').commands_per_tick == 5
    assert load('hand').upsampling == 'linear'
    assert load('servo_arm').commands_per_tick == 1
    assert load('servo_arm').upsampling == 'hold'
    thirds = (put('control/rate_hz', 33.3), put('control/command_rate_hz', 99.9))
    assert load('hand', *thirds).commands_per_tick == 3


def test_a_urdf_limits_what_the_contract_does_not_and_the_contract_tightens(load):
    safety = load(
        'two_joint_arm',
        put('safety/urdf', 'arm.urdf'),
        put('safety/limits/elbow', {'high': 2.0}),
        put('on_stop', 'hold'),
    ).safety
    assert safety.low == (-2.0, 0.0)
    assert safety.high == (2.0, 2.0)
    assert safety.velocity == (1.0, 1.5)
    assert safety.acceleration == (4.0, math.inf)


def test_a_urdf_limits_commanded_velocities_and_efforts_by_their_size(load):
    safety = load(
        'hand',
        put('safety/urdf', 'arm.urdf'),
        put('safety/limits', ...),
        put('action/commands/0/fields/0/field', 'effort'),
        put('action/commands/0/fields/1/field', 'velocity'),
    ).safety
    assert safety.low == (-9.0, -0.5)
    assert safety.high == (9.0, 0.5)
    assert safety.velocity == (math.inf, math.inf)


ACCELERATION = 'safety/limits/shoulder/acceleration'
FIRST = 'action/commands/0/fields/0'


@pytest.mark.parametrize(
    ('name', 'change', 'message'),
    [
        (
            'hand',
            put('control/command_rate_hz', 50.0),
            r'command_rate_hz: got 50.0, wanted a whole',
        ),
        ('hand', put('control/command_rate_hz', 10.0), r'a whole multiple of rate_hz, 20'),
        ('hand', put('control/upsampling', 'cubik'), r"got 'cubik'.*did you mean 'cubic'"),
        (
            'hand',
            put('safety/watchdog', ...),
            r"Float64MultiArray on 'gripper_controller/commands' never times out by itself"
            r'.*add safety.watchdog.timeout_s',
        ),
        ('hand', put('safety/watchdog', {}), r'safety.watchdog.timeout_s: is missing'),
        (
            'hand',
            put('safety/watchdog/timeout_s', 0.14),
            r'timeout_s: got 0.14, wanted a number f',
        ),
        (
            'hand',
            put('action/hold', 0.0),
            r'action.hold: got 0.0, wanted nothing for left: an abs',
        ),
        ('hand', put('action/hold', [None, 0.0]), r'wanted nothing for right'),
        ('hand', put('action/hold', [None]), r'action.hold: got \[None\], wanted 2 numbers'),
        (
            'hand',
            put('features/observation.state/0/names', ['left_finger']),
            r"fields\[1\].name: got 'right_finger', wanted a joint whose position is measured.*"
            r'names: \[right_finger\]',
        ),
        (
            'hand',
            put('features/observation.state/0/scale', [1.0, 0.0]),
            r"got 'right_finger', wanted a joint whose position is measured",
        ),
        (
            'hand',
            put('features/observation.state/0/field', 'velocity'),
            r"got 'left_finger', wanted a joint whose position is measured",
        ),
        ('hand', put('on_stop', 'zero'), r"on_stop: got 'zero', wanted hold.*left is a position"),
        ('hand', put('on_stop', 'stop'), r"on_stop: got 'stop', wanted one of hold, zero, ramp"),
        (
            'hand',
            put('on_stop', 'ramp_down'),
            r"on_stop: got 'ramp_down', wanted.*add safety.limits.left.acceleration",
        ),
        ('hand', put('action/commands/0/frame_id', 'base'), r'frame_id.*has no header'),
        (
            'hand',
            put('action/commands/0/whole_chunk', True),
            r'whole_chunk: got True, wanted noth',
        ),
        ('hand', put(f'{FIRST}/name', ...), r'fields\[0\].name: is missing'),
        (
            'servo_arm',
            put('safety/limits/vx/velocity', 1.0),
            r'limits.vx.velocity: got 1.0, wanted nothing: linear.x is no position; use low and',
        ),
        (
            'servo_arm',
            put('safety/limits/vx/low', 0.2),
            r'limits.vx.low: got 0.2, wanted low < hi',
        ),
        ('servo_arm', put('safety/limits/vq', {}), r"unknown key 'vq'"),
        (
            'servo_arm',
            put('safety/workspace/low', [0.2, 0.3, 0.0]),
            r'workspace.low.*less than hi',
        ),
        ('servo_arm', put('safety/workspace/low', 0.0), r'workspace.low: got 0.0, wanted 3 numb'),
        ('servo_arm', put('safety/workspace/low', [0, 0]), r'wanted 3 numbers'),
        (
            'servo_arm',
            put('safety/workspace/stream', 'toll'),
            r"workspace.stream: got 'toll', wanted a geometry_msgs/msg/PoseStamped.*mean 'tool'",
        ),
        (
            'servo_arm',
            both(
                put('features/observation.state/0/names', ['x', 'y']),
                put('features/observation.state/0/offset', 0.0),
            ),
            r'workspace.stream: got .tool., wanted one whose position z is in features.obs',
        ),
        (
            'two_joint_arm',
            put('safety/workspace', {'stream': 'joints', 'low': [0] * 3, 'high': [1] * 3}),
            r'safety.workspace: got .*, wanted one command of type geometry_msgs/msg/TwistStamped',
        ),
        (
            'two_joint_arm',
            put(f'{FIRST}/relative', 'measured'),
            r'whole_chunk: got True, wanted false: shoulder is relative to the measured',
        ),
        (
            'two_joint_arm',
            put(f'{FIRST}/relative', 'last'),
            r"got 'last', wanted one of command, m",
        ),
        (
            'two_joint_arm',
            put(f'{FIRST}/field', 'velocity'),
            r"got 'velocity', wanted one of posi",
        ),
        (
            'two_joint_arm',
            put(f'{FIRST}/offset', 0.01),
            r'action.hold: got None, wanted -0.2 for shoulder: held, its position would be moved',
        ),
        ('two_joint_arm', put(ACCELERATION, 0.0), r'acceleration: got 0.0, wanted a number above'),
        (
            'two_joint_arm',
            put('safety/limits/elbow/velocity', -1),
            r'velocity: got -1, wanted a nu',
        ),
        ('two_joint_arm', put(ACCELERATION, ...), r'add safety.limits.shoulder.acceleration'),
        ('two_joint_arm', put('safety/urdf', 'leg.urdf'), r'leg.urdf: cannot be read'),
        (
            'two_joint_arm',
            both(put('safety/urdf', 'arm.urdf'), put('safety/limits/elbow/low', -0.1)),
            r'limits.elbow.low: got -0.1, wanted at least 0, the limit of the URDF',
        ),
        (
            'two_joint_arm',
            both(put('safety/urdf', 'arm.urdf'), put('safety/limits/elbow/high', 2.6)),
            r'limits.elbow.high: got 2.6, wanted at most 2.5, the limit of the URDF',
        ),
        (
            'two_joint_arm',
            both(put('safety/urdf', 'arm.urdf'), put('safety/limits/elbow/velocity', 1.6)),
            r'limits.elbow.velocity: got 1.6, wanted at most 1.5, the limit of the URDF',
        ),
        ('two_joint_arm', put('safety/on_late', 'wait'), r"on_late: got 'wait', wanted one of ho"),
        (
            'two_joint_arm',
            put('safety/resume_after_stale', 'yes'),
            r"got 'yes', wanted true or fa",
        ),
        ('two_joint_arm', put('safety/soft_start_s', -1.0), r'soft_start_s: got -1.0, wanted'),
        ('two_joint_arm', put('safety/stop_after_s', 'now'), r"stop_after_s: got 'now', wanted"),
        ('two_joint_arm', put('safety', [1]), r'safety: got \[1\], wanted a mapping of urdf'),
        (
            'servo_arm',
            put(f'{FIRST}/relative', 'command'),
            r'only a position can be relative, not',
        ),
        ('servo_arm', put(f'{FIRST}/name', 'j1'), r"unknown key 'name'"),
        (
            'hand',
            both(
                put(f'{FIRST}/field', 'effort'),
                put(f'{FIRST}/relative', 'command'),
                put('safety/limits', ...),
            ),
            r'only a position can be relative, not effort',
        ),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_place(load, name, change, message):
    with pytest.raises(ContractError, match=message) as error:
        load(name, change)
    assert name in str(error.value) or '.urdf' in str(error.value)
    assert '\n' not in str(error.value)


def test_the_hash_of_what_was_there_before_stays():
    for name, digest in SHIPPED_HASHES.items():
        assert load_contract(name).hash == digest


@pytest.mark.parametrize(
    ('name', 'change'),
    [
        ('two_joint_arm', put('safety', {})),
        ('two_joint_arm', put('on_stop', 'none')),
        ('servo_arm', put('safety/limits/vx/low', -0.1)),
        ('hand', put('safety/watchdog/timeout_s', 1.0)),
        ('hand', put('safety/urdf', 'arm.urdf')),
        ('servo_arm', put('control/command_rate_hz', 25.0)),
        ('servo_arm', put('action/commands/0/whole_chunk', False)),
    ],
)
def test_limits_and_defaults_are_not_in_the_hash(load, name, change):
    def without(data):
        data['on_stop'] = 'hold'
        change(data)

    assert load(name, without).hash == load(name).hash


@pytest.mark.parametrize(
    ('name', 'change'),
    [
        ('two_joint_arm', put('action/commands/0/whole_chunk', False)),
        ('two_joint_arm', put(f'{FIRST}/relative', ...)),
        ('hand', put(f'{FIRST}/relative', 'measured')),
        ('hand', put('control/upsampling', 'hold')),
        ('hand', put('control/command_rate_hz', 40.0)),
        ('hand', put('action/commands/0/type', 'trajectory_msgs/msg/JointTrajectory')),
    ],
)
def test_what_changes_what_an_action_does_is_in_the_hash(load, name, change):
    def relative_needs_a_hold(data):
        change(data)
        if 'relative' in data['action']['commands'][0]['fields'][0] and name == 'hand':
            data['action']['hold'] = [-1.0, None]

    assert load(name, relative_needs_a_hold).hash != load(name).hash
