# SPDX-License-Identifier: Apache-2.0
"""A contract file says what it means or is refused with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from qcfql_ros.contract import find_contract, load_contract
from qcfql_ros.errors import ContractError

ROBOTS = ('ur5e_cube', 'point_reach')


@pytest.fixture
def edited(tmp_path: Path):
    """Return a function that writes point_reach.yaml with one text replaced."""

    def edit(old: str, new: str, robot: str = 'point_reach') -> Path:
        text = find_contract(robot).read_text()
        assert old in text
        path = tmp_path / 'edited.yaml'
        path.write_text(text.replace(old, new, 1))
        return path

    return edit


@pytest.mark.parametrize('robot', ROBOTS)
def test_each_shipped_contract_loads_by_name(robot):
    contract = load_contract(robot)
    assert contract.name == robot
    assert contract.period_ns == 50_000_000
    assert len(contract.hash) == 64


def test_the_arm_contract_has_28_numbers_and_5_actions():
    contract = load_contract('ur5e_cube')
    assert contract.state_dim == len(contract.state_names) == 28
    assert contract.action.names == ('dx', 'dy', 'dz', 'dyaw', 'dgripper')
    assert len(contract.action.commands) == 2
    assert contract.success_timing == 'pre'


def test_an_unknown_name_gives_the_nearest():
    with pytest.raises(ContractError, match="did you mean 'ur5e_cube'"):
        load_contract('ur5_cube')


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(ContractError, match='no such file') as error:
        load_contract(tmp_path / 'none.yaml')
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        ('rate_hz: 20.0', 'rate_hertz: 20.0', r"control.rate_hertz: unknown key.*'rate_hz'"),
        ('rate_hz: 20.0', 'rate_hz: fast', r"control.rate_hz: got 'fast', wanted a number"),
        ('rate_hz: 20.0', 'rate_hz: .nan', r'control.rate_hz: got nan, wanted a finite'),
        ('rate_hz: 20.0', 'rate_hz: 0', r'control.rate_hz: got 0.0|got 0, wanted'),
        ('rate_hz: 20.0', 'rate_hz: true', r'control.rate_hz: got True, wanted a number'),
        ('phase: 0.5', 'phase: 1.5', r'control.phase: got 1.5, wanted a number from 0 to 1'),
        ('topic: joint_states', 'topic: /joint_states', r'streams.joint_states.topic.*no leading'),
        ('sensor_msgs/msg/JointState', 'sensor_msgs/JointState', r"did you mean 'sensor_msgs/msg"),
        ('stream: goal, field: position', 'stream: gaol, field: position', r"mean 'goal'"),
        ('field: velocity', 'field: speed', r'observation.state\[1\].field: got .speed.'),
        ('names: [x, y]}            # m', 'names: [x, q]}', r'some of x, y, z'),
        ('names: [x, y]}            # m', 'scale: [1, 2]}', r'wanted 3 numbers, or one for all'),
        ('low: -1.0', 'low: -2.0', r'action.low: got -2.0'),
        ('low: -1.0', 'low: 1.0', r'action.low: got 1.0'),
        ('hold: 0.0', 'hold: [0.0, 2.0]', r'action.hold'),
        ('action: vy, scale: 2.0', 'action: vx, scale: 2.0', r"'vx' is used by 2 fields"),
        ('action: vy, scale: 2.0', 'action: vy, scale: 0', r'a number other than 0'),
        ('success_timing: post', 'success_timing: after', r'one of pre, post'),
        ('topic: outcome', 'topic: twist_command', r"'twist_command' is used twice"),
        ('contract: 1', 'contract: 2', r'contract: got 2, wanted 1'),
        ('name: point_reach', 'name: a\nname: b', r"line 4: key 'name' is there twice"),
        ('control:', 'control: [', r'is not valid YAML'),
        ('  topic: outcome\n', '', r'outcome.topic: is missing'),
    ],
)
def test_a_wrong_contract_is_refused_with_file_key_and_what_was_wanted(edited, old, new, message):
    path = edited(old, new)
    with pytest.raises(ContractError, match=message) as error:
        load_contract(path)
    assert str(path) in str(error.value)
    assert '\n' not in str(error.value)


def test_a_stream_that_nothing_reads_is_refused(edited):
    path = edited(
        'streams:\n', 'streams:\n  spare: {topic: spare, type: sensor_msgs/msg/JointState}\n'
    )
    with pytest.raises(ContractError, match=r'streams\.spare'):
        load_contract(path)


def test_images_are_recorded_but_not_trained_on(edited):
    path = edited(
        'features:\n',
        'features:\n  observation.images.front: {topic: front, type: sensor_msgs/msg/Image}\n',
    )
    contract = load_contract(path)
    assert contract.recorded_topics('cell')['/cell/front'] == 'sensor_msgs/msg/Image'
    with pytest.raises(ContractError, match='training on images is not supported yet'):
        contract.require_no_images_for_training()
    load_contract('point_reach').require_no_images_for_training()


def test_what_changes_the_meaning_of_a_step_changes_the_hash(edited):
    base = load_contract('point_reach').hash
    assert load_contract(edited('success_timing: post', 'success_timing: pre')).hash != base
    assert load_contract(edited('lateness_s: 2.0', 'lateness_s: 3.0')).hash != base
    assert load_contract(edited('scale: 2.0', 'scale: 3.0')).hash != base
    assert load_contract(edited('names: [x, y]}    # m', 'names: [y, x]}    # m')).hash != base


def test_what_does_not_change_the_meaning_keeps_the_hash(edited):
    base = load_contract('point_reach').hash
    assert load_contract(edited('max_age_s: 0.2', 'max_age_s: 0.3')).hash == base
    assert load_contract(edited('name: point_reach', 'name: other')).hash == base
    assert load_contract(edited('after_crash: resume', 'after_crash: wait')).hash == base


def test_recorded_topics_hold_sensors_commands_outcome_step_and_chunk():
    assert load_contract('point_reach').recorded_topics() == {
        '/joint_states': 'sensor_msgs/msg/JointState',
        '/goal_pose': 'geometry_msgs/msg/PoseStamped',
        '/twist_command': 'geometry_msgs/msg/TwistStamped',
        '/outcome': 'sensor_msgs/msg/JointState',
        '/policy/step': 'sensor_msgs/msg/JointState',
        '/policy/chunk': 'trajectory_msgs/msg/JointTrajectory',
    }
