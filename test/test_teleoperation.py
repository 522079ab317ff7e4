# SPDX-License-Identifier: Apache-2.0
"""Five recordings by the real rosbag2 of one scene, against what its publisher sent."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from recorded_ticks import CONTRACT
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore
from teleoperation_oracle import Recorded, Rules, expected, margin
from train_runs import SMALL, record_bag

from qcfql_ros.cli.main import main
from qcfql_ros.contract import load_contract
from qcfql_ros.contract.recordings import Recordings
from qcfql_ros.data import teleoperation_memory
from qcfql_ros.data.bag_steps import BagSteps
from qcfql_ros.data.dataset import load_dataset
from qcfql_ros.data.reader import BagReader
from qcfql_ros.data.steps import Source, Step
from qcfql_ros.data.teleoperation import teleoperation_blocks, teleoperation_reader
from qcfql_ros.errors import BagError

DATA = Path(__file__).parent / 'data'
BAGS = DATA / 'rosbag2'
WHOLE = ['mcap_default', 'sqlite3', 'mcap_zstd_split']
GRIPPER = 'gripper/commands'
JOINTS = ['shoulder_pan_joint', 'shoulder_lift_joint', 'elbow_joint', 'wrist_1_joint']
JOINTS += ['wrist_2_joint', 'wrist_3_joint', 'gripper_finger_joint']
SENT = ['wrist_3_joint', 'shoulder_pan_joint', 'elbow_joint', 'shoulder_lift_joint']
SENT += ['wrist_1_joint', 'wrist_2_joint', 'gripper_finger_joint']
PLACES = [SENT.index(name) for name in JOINTS]
ROUNDING_NS = 256  # stamps of the truth are float64


def contract_with(tmp_path, **changes):
    """The scene's contract with other numbers in its section `recordings`."""
    data = yaml.safe_load((DATA / 'teleoperation.yaml').read_text())
    data['recordings'] |= changes
    path = tmp_path / 'contract.yaml'
    path.write_text(yaml.safe_dump(data))
    return load_contract(path)


@pytest.fixture(scope='module')
def truth():
    with np.load(BAGS / 'truth.npz') as arrays:
        return {name: arrays[name] for name in arrays}


def messages_of(bag):
    """Return (topic, message); rosbags reads all but the killed bag."""
    if bag == 'mcap_killed':
        store = get_typestore(Stores.ROS2_JAZZY)
        reader = BagReader(BAGS / bag)
        types = {topic: channel.type_name for topic, channel in reader.channels().items()}
        return [(m.topic, store.deserialize_cdr(m.data, types[m.topic])) for m in reader]
    with AnyReader([BAGS / bag]) as reader:
        return [
            (link.topic, reader.deserialize(raw, link.msgtype))
            for link, _, raw in reader.messages()
        ]


def stamp_of(message):
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def there(column, stamps):
    """Say for each stamp of the truth whether the bag has the message."""
    stamps = np.sort(np.array(stamps, np.float64))
    place = np.clip(np.searchsorted(stamps, column), 1, len(stamps) - 1)
    near = np.minimum(np.abs(column - stamps[place]), np.abs(column - stamps[place - 1]))
    return near <= ROUNDING_NS


def recorded_of(bag, truth):
    """Return what of the truth is in a bag, and how many messages of each kind are not."""
    by_topic = {}
    for topic, message in messages_of(bag):
        by_topic.setdefault(topic, []).append(message)
    joints = by_topic['/joint_states']
    lacking = [stamp_of(m) for m in joints if 'gripper_finger_joint' not in m.name]
    joint, pose, command = truth['joint'], truth['pose'], truth['cmd']
    unusable = np.isnan(joint).any(1) | (there(joint[:, 0], lacking) if lacking else False)
    kept = {
        'joint': there(joint[:, 0], [stamp_of(m) for m in joints]),
        'pose': there(pose[:, 0], [stamp_of(m) for m in by_topic['/tool_pose']]),
        'cmd': there(command[:, 0], [stamp_of(m) for m in by_topic['/arm/joint_trajectory']]),
    }
    # No stamps: these are the first ones.
    grip = [[when, row] for when, *row in truth['grip']][: len(by_topic['/gripper/commands'])]
    rewards = [[when, x] for when, x in truth['reward']][: len(by_topic['/reward'])]
    assert [m.data[0] for m in by_topic['/gripper/commands']] == [row[0] for _, row in grip]
    assert [m.data for m in by_topic['/reward']] == [x for _, x in rewards]
    recorded = Recorded(
        streams={
            'joints': [
                (row[0], None if bad else row[1:])
                for row, bad, keep in zip(joint, unusable, kept['joint'], strict=True)
                if keep
            ],
            'tool': [(row[0], row[1:]) for row in pose[kept['pose']]],
        },
        clock=[(row[0], row[1:]) for row in command[kept['cmd']]],
        others={GRIPPER: grip},
        rewards=rewards,
        episodes=episodes_of(truth, len(by_topic['/episode'])),
    )
    return recorded, {name: int((~keep).sum()) for name, keep in kept.items()}


def episodes_of(truth, count):
    """Return the episodes of the first `count` events."""
    stamps = truth['event_ns'].astype(np.float64).tolist()[:count]
    texts = truth['event'].tolist()[:count]
    begins, ends = stamps[::2], [*stamps[1::2], float('inf')]
    return [
        (begin, end, outcome)
        for begin, end, outcome in zip(begins, ends, [*texts[1::2], ''], strict=False)
    ]


def observe(values):
    joint, pose = values['joints'], values['tool']
    x, y, z, yaw = pose
    place = [(x - 0.4) * 10.0, y * 10.0, (z - 0.3) * 10.0]
    return np.array(
        [*joint[:7][PLACES], *(0.5 * joint[7:][PLACES]), *place, np.cos(yaw), np.sin(yaw)]
    )


def act(command, others):
    pan, lift, *rest = command
    return np.array([pan / 2.0, (lift - 0.25) / 2.0, *rest, others[GRIPPER][0]])


def rules(lead):
    ms = 1e6
    return Rules(
        period=50 * ms,
        tolerance=10 * ms,
        lead=lead * 1e9,
        max_age={'joints': 50 * ms, 'tool': 100 * ms},
        windows={GRIPPER: (-10 * ms, 30 * ms)},
        reward_window=(0, 45 * ms),
        failure_reward=-5.0,
    )


def segments_of(events):
    segments, steps = [], []
    for event in events:
        if isinstance(event, Step):
            steps.append(event)
        else:
            segments.append((steps, event))
            steps = []
    assert not steps, 'the last segment has an end'
    return segments


def require_equal(events, wanted):
    got = segments_of(events)
    assert [len(steps) for steps, _ in got] == [len(segment.steps) for segment in wanted]
    for (steps, end), segment in zip(got, wanted, strict=True):
        for step, (stamp, observation, action, reward, terminated, success, number) in zip(
            steps, segment.steps, strict=True
        ):
            assert abs(step.stamp_ns - stamp) <= ROUNDING_NS
            require_observation(step.observation, observation)
            assert (step.action == action.astype(np.float32)).all()
            assert (step.reward, step.terminated, step.success) == (reward, terminated, success)
            assert (step.episode, step.source, step.chunk) == (number, Source.PERSON, -1)
        require_observation(end.final_observation, segment.final)
        assert (end.truncated, end.episode_end) == (segment.truncated, segment.episode_end)


def require_observation(got, wanted):
    assert got.dtype == np.float32
    assert (got[:17] == wanted[:17].astype(np.float32)).all()
    np.testing.assert_allclose(got[17:], wanted[17:], atol=1e-6)  # the wire has a quaternion


@pytest.mark.parametrize('lead', [0.02, 0.0, 0.11])
@pytest.mark.parametrize('bag', [*WHOLE, 'sqlite3_zstd_message', 'mcap_killed'])
def test_the_steps_are_those_of_the_truth(bag, lead, truth, tmp_path):
    recorded, missing = recorded_of(bag, truth)
    if bag in WHOLE:
        assert not any(missing.values())
    elif bag == 'sqlite3_zstd_message':
        assert missing == {'joint': 2, 'pose': 0, 'cmd': 1}
    assert margin(recorded, rules(lead)) > ROUNDING_NS, 'rounded stamps decide nothing'
    wanted = expected(recorded, rules(lead), observe, act)
    contract = contract_with(tmp_path, lead_s=lead)
    require_equal(load_dataset(BAGS / bag, contract), wanted)


@pytest.fixture(scope='module')
def blocks(tmp_path_factory):
    """The steps of every bag, in one block each, and what was counted."""
    contract = contract_with(tmp_path_factory.mktemp('contract'))
    made = {}
    for bag in (*WHOLE, 'sqlite3_zstd_message', 'mcap_killed'):
        counters = Counter()
        reader = teleoperation_reader(BAGS / bag, contract)
        (block,) = teleoperation_blocks(reader, contract, None, counters)
        made[bag] = block, counters
    return made


COLUMNS = ('stamp_ns', 'observation', 'action', 'reward', 'terminated', 'success', 'episode')
ENDS = ('end_after', 'final_observation', 'truncated', 'episode_end', 'reason')


def test_every_storage_gives_the_same_bits(blocks):
    first, counted = blocks['mcap_default']
    for bag in WHOLE[1:]:
        block, counters = blocks[bag]
        for name in (*COLUMNS, *ENDS):
            assert np.array_equal(getattr(first, name), getattr(block, name)), (bag, name)
        assert counters == counted


def test_what_is_wrong_in_an_episode_cuts_it_where_it_is(blocks):
    block, counters = blocks['mcap_default']
    assert list(zip(block.end_after.tolist(), block.reason, strict=True)) == [
        (80, 'terminated'),
        (200, 'timeout'),
        (290, 'terminated'),
        (330, 'missing_next_observation'),  # no joint states for 14 ticks
        (376, 'terminated'),
        (425, 'missing_next_observation'),  # NaN in what the tick 50 would look at
        (474, 'terminated'),
        (564, 'abort'),
        (624, 'terminated'),  # a joint is missing in what no tick looks at
    ]
    assert {name: n for name, n in counters.items() if n and 'dropped' in name} == {
        'dropped_missing_observation': 13,
        'dropped_bad_observation': 1,
        'dropped_missing_next_observation': 2,
    }
    assert (counters['steps'], counters['episodes'], counters['bad_message']) == (624, 7, 2)
    assert block.reward.sum() == 4 - 5.0, 'four successes, and a failure at its price'


def test_the_bag_that_missed_three_messages_lacks_one_step(blocks):
    whole, _ = blocks['mcap_default']
    block, _ = blocks['sqlite3_zstd_message']
    kept = np.isin(whole.stamp_ns, block.stamp_ns)
    assert np.flatnonzero(~kept).tolist() == [174], 'tick 94 of episode 1 has no command'
    assert len(block) == len(whole) - 1
    for name in COLUMNS:
        assert np.array_equal(getattr(whole, name)[kept], getattr(block, name)), name
    # The two joint states that it missed were not the latest ones of any tick.
    assert block.end_after.tolist() == [80, 174, *(whole.end_after[1:] - 1).tolist()]
    assert block.reason[1] == 'gap' and block.truncated[1] and not block.episode_end[1]


def test_the_killed_recording_gives_every_step_that_is_in_the_file(blocks):
    whole, _ = blocks['mcap_default']
    block, counters = blocks['mcap_killed']
    for name in COLUMNS:
        assert np.array_equal(getattr(whole, name)[: len(block)], getattr(block, name)), name
    commands = sum(m.topic == '/arm/joint_trajectory' for m in BagReader(BAGS / 'mcap_killed'))
    dropped = sum(n for name, n in counters.items() if name.startswith('dropped'))
    assert (len(block), dropped, commands) == (332, 14, 346)
    assert (block.reason[-1], block.truncated[-1], block.episode_end[-1]) == (
        'shutdown',
        True,
        False,
    )


def test_a_policy_is_trained_on_a_bag_of_others(tmp_path, capsys):
    shutil.copytree(BAGS / 'mcap_zstd_split', tmp_path / 'bag')
    given = ['train', '--dataset_path', tmp_path / 'bag', '--output_dir', tmp_path / 'out']
    given += ['--contract', DATA / 'teleoperation.yaml', '--num_pretrain_steps', 3]
    assert main([str(word) for word in (*given, *SMALL, '--no_tensorboard')]) == 0
    said = capsys.readouterr().out
    assert '624 steps' in said or 'held out' in said
    assert (tmp_path / 'out' / 'policy.safetensors').is_file()
    assert sorted(path.name for path in (tmp_path / 'bag').iterdir()) == sorted(
        path.name for path in (BAGS / 'mcap_zstd_split').iterdir()
    )


def test_without_the_section_the_error_says_what_is_missing(tmp_path):
    data = yaml.safe_load((DATA / 'teleoperation.yaml').read_text())
    del data['recordings']
    path = tmp_path / 'contract.yaml'
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(BagError, match=r'section `recordings`.*docs/contract.md'):
        load_dataset(BAGS / 'mcap_default', load_contract(path))


def test_a_bag_that_does_not_fit_in_memory_is_refused_before_it_is_decoded(
    tmp_path, capsys, monkeypatch
):
    shutil.copytree(BAGS / 'mcap_zstd_split', tmp_path / 'bag')
    given = ['train', '--dataset_path', tmp_path / 'bag', '--output_dir', tmp_path / 'out']
    given += ['--contract', DATA / 'teleoperation.yaml', '--num_pretrain_steps', 2]
    given += [*SMALL, '--no_tensorboard', '--memory-limit', '8G']
    with monkeypatch.context() as patched:
        patched.setattr(teleoperation_memory, '_FIXED_BYTES', 9 << 30)
        patched.setattr(BagSteps, 'load', lambda *_: pytest.fail('decoded'))
        assert main([str(word) for word in given]) == 2
    error = capsys.readouterr().err
    assert re.search(r'--memory-limit 8192M: .*bag, which others .*at least --memory-limit', error)
    assert error.count('\n') == 1 and not (tmp_path / 'out').exists()
    assert main([str(word) for word in given]) == 0
    monkeypatch.setattr(teleoperation_memory, '_FIXED_BYTES', 9 << 30)
    given[4] = tmp_path / 'again'
    assert main([str(word) for word in given]) == 0, 'what was kept is not decoded'


@pytest.mark.parametrize('section', [False, True])
def test_a_bag_of_our_robot_in_a_namespace_is_known_and_can_be_used(section, tmp_path):
    path = record_bag(tmp_path / 'bag', '/left/arm', contract_hash='')
    contract = CONTRACT
    if section:
        rules = Recordings(CONTRACT.action.commands[0].topic, True, 'commands', 1, 0, {})
        contract = replace(CONTRACT, recordings=rules)
    with pytest.raises(
        BagError, match='bag has /left/arm/policy/step, of a robot of ours'
    ) as error:
        load_dataset(path, contract)
    (advice,) = re.findall('write `(custom_data: .*)` into its metadata.yaml', str(error.value))
    about = path / 'metadata.yaml'
    data = yaml.safe_load(about.read_text())
    data['rosbag2_bagfile_information'] |= yaml.safe_load(advice)
    about.write_text(yaml.safe_dump(data))
    assert len(segments_of(load_dataset(path, contract))) == 25


@pytest.mark.parametrize(
    ('change', 'wanted'),
    [
        (
            lambda data: data['streams']['tool'].update(topic='gripper_pose'),
            r'mcap_default: there is no topic /gripper_pose \(geometry_msgs/msg/PoseStamped\)',
        ),
        (
            lambda data: data['recordings']['reward'].update(type='std_msgs/msg/Float64'),
            r'topic /reward has the type std_msgs/msg/Float32, want std_msgs/msg/Float64',
        ),
        (
            lambda data: (
                data['recordings'].update(events={'topic': 'reward', 'success': 'x'})
                or data['recordings'].pop('reward')
            ),
            r'topic /reward has the type std_msgs/msg/Float32, want std_msgs/msg/String',
        ),
        (
            lambda data: data['recordings'].pop('events') and data['recordings'].pop('reward'),
            r'nothing says how its episodes end.*`qcfql label ',
        ),
    ],
    ids=['no topic', 'reward type', 'event type', 'no outcomes'],
)
def test_what_does_not_fit_is_said_before_a_step_is_read(change, wanted, tmp_path):
    data = yaml.safe_load((DATA / 'teleoperation.yaml').read_text())
    change(data)
    path = tmp_path / 'contract.yaml'
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(BagError, match=wanted):
        load_dataset(BAGS / 'mcap_default', load_contract(path))


def test_a_topic_without_one_usable_message_is_an_error_that_says_why(tmp_path):
    data = yaml.safe_load((DATA / 'teleoperation.yaml').read_text())
    text = yaml.safe_dump(data).replace('wrist_3_joint', 'wrist_4_joint')
    path = tmp_path / 'contract.yaml'
    path.write_text(text)
    with pytest.raises(BagError, match=r"no message of topic /\w+.*'?wrist_4_joint'?.*"):
        list(load_dataset(BAGS / 'mcap_default', load_contract(path)))
