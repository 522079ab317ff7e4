# SPDX-License-Identifier: Apache-2.0
"""`qcfql inspect` on recordings in which one property at a time is broken."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recorded_ticks import CONTRACT, PERIOD, Ticks

from qcfql_ros.algorithm.config import AlgorithmConfig
from qcfql_ros.cli.inspect_plot import segment_times
from qcfql_ros.cli.main import main
from qcfql_ros.contract import load_contract
from qcfql_ros.data.dataset import load_dataset
from qcfql_ros.data.inspection import inspect_bag
from qcfql_ros.data.labels import Label, Labels, write_labels
from qcfql_ros.data.reader import read_bag
from qcfql_ros.data.recorder import BagRecorder
from qcfql_ros.data.session_mark import SESSION_TYPE, session_mark, session_topic
from qcfql_ros.training.setup import empty_replay

BAGS = Path(__file__).parent / 'data' / 'rosbag2'
TELEOPERATION = Path(__file__).parent / 'data' / 'teleoperation.yaml'
S0 = 1_000_000_000_000
T0 = 1_700_000_000_000_000_000
TYPES = CONTRACT.recorded_topics()


def save(folder, log, types=None, namespace=''):
    """Write messages of (topic, receive stamp, CDR bytes) as one session of a recording."""
    topics = (types or TYPES) | {session_topic(namespace): SESSION_TYPE}
    recorder = BagRecorder(
        folder,
        topics,
        contract_name=CONTRACT.name,
        contract_hash=CONTRACT.hash,
        namespace=namespace,
    )
    mark = session_mark(CONTRACT.name, CONTRACT.hash, 0)
    recorder.write(session_topic(namespace), log[0][1] - 1, 0, mark)
    for topic, receive_ns, data in log:
        if topic in topics:
            recorder.write(topic, receive_ns, receive_ns, data)
    recorder.close()
    return folder


def lockstep(episodes=3, count=20):
    """Episodes in lockstep; every second one succeeds."""
    ticks, stamp = Ticks(), S0
    for i in range(episodes):
        last = {'truncated': True} if i % 2 else {'terminated': True, 'success': True}
        stamp = ticks.run(stamp, count, episode=i, **last, reward=0.0) + PERIOD
    return ticks


def wall(count=100, silent=range(0), sensor_late_ns=0, action=(0.5, -0.5), nan_at=-1):
    """One episode at wall rate: sensors come half a period before the tick.

    In the ticks of `silent` there are no joint states; sensors are received `sensor_late_ns` after
    their stamp; the joint state of tick `nan_at` is not a number.
    """
    ticks = Ticks(lockstep=False)
    for i in range(count + 1):
        at = T0 + i * PERIOD
        ticks.now_ns = at - PERIOD // 2 + sensor_late_ns
        if i not in silent:
            ticks.joints(at - PERIOD // 2, float('nan') if i == nan_at else float(i))
        ticks.goal(at - PERIOD // 2)
        if i < count:
            ticks.now_ns = max(ticks.now_ns, at)
            ticks.step(at, action)
            ticks.outcome(at, truncated=i == count - 1)
    ticks.log.sort(key=lambda message: message[1])
    return ticks


def inspect(capsys, tmp_path, *arguments, contract='point_reach'):
    """Run the command; return its status, what it said, and its report."""
    path = tmp_path / 'report.json'
    given = ['--contract', contract] if contract else []
    status = main(['inspect', *map(str, arguments), *given, '--json', str(path)])
    said = capsys.readouterr()
    return status, said.out + said.err, json.loads(path.read_text()) if path.exists() else {}


def test_a_good_recording_is_fit(capsys, tmp_path):
    bag = save(tmp_path / 'bag', lockstep().log)
    status, said, report = inspect(capsys, tmp_path, bag)
    assert status == 0
    assert said.endswith('fit: 60 steps, 57 windows\n')
    assert report['fit'] and (report['steps'], report['windows']) == (60, 57)
    assert (report['episodes'], report['bag0.outcome.success']) == (3, 2)
    assert report['bag0.outcome.timeout'] == 1
    assert report['bag0.segment_end.terminated'] == 2
    joints = {k.removeprefix('bag0.topic./joint_states.'): v for k, v in report.items()}
    assert joints['messages'] == 63
    assert joints['rate_hz'] == pytest.approx(20.0, rel=0.05)
    assert joints['longest_s'] == pytest.approx(0.05)
    assert (joints['gaps'], joints['bad_messages'], joints['stale_share']) == (0, 0, None)
    assert report['bag0.action.vy.min'] == report['bag0.action.vy.max'] == -0.5
    assert 'warning: action: never changes: vy (-0.5)' in said
    assert max(map(len, said.splitlines())) <= 100


def test_the_windows_are_those_of_the_chunk(capsys, tmp_path):
    bag = save(tmp_path / 'bag', lockstep(2, 10).log)
    report = inspect(capsys, tmp_path, bag, '--action_chunk_size', '6')[2]
    assert report['windows'] == 10 + 5, 'one episode is terminated, the other truncated'
    status, said, _ = inspect(capsys, tmp_path, bag, '--action_chunk_size', '11')
    assert status == 0 and 'too short for a window: segments 1, steps in them 10' in said
    truncated = save(tmp_path / 'other', wall(8).log)
    status, said, _ = inspect(capsys, tmp_path, truncated, '--action_chunk_size', '9')
    assert status == 1
    assert 'unfit: no window of 9 steps: 8 steps, the longest unbroken run has 8' in said


@pytest.mark.parametrize('announced', [True, False])
def test_a_missing_topic_makes_it_unfit(capsys, tmp_path, announced):
    types = {name: kind for name, kind in TYPES.items() if announced or name != '/goal_pose'}
    log = [message for message in lockstep().log if message[0] != '/goal_pose']
    status, said, report = inspect(capsys, tmp_path, save(tmp_path / 'bag', log, types))
    assert status == 1 and not report['fit']
    why = 'has no message' if announced else 'is missing'
    assert f'unfit: /goal_pose (geometry_msgs/msg/PoseStamped) {why}' in said
    assert 'no window of 4 steps: 0 steps' in said


def test_a_topic_under_another_name_is_pointed_at(capsys, tmp_path):
    log = [(name.replace('/goal_pose', '/r1/goal_pose'), *rest) for name, *rest in lockstep().log]
    types = {name.replace('/goal_pose', '/r1/goal_pose'): kind for name, kind in TYPES.items()}
    status, said, _ = inspect(capsys, tmp_path, save(tmp_path / 'bag', log, types))
    assert status == 1
    assert '/goal_pose (geometry_msgs/msg/PoseStamped) is missing; the bag has /r1/goal' in said
    assert 'not used    /r1/goal_pose (geometry_msgs/msg/PoseStamped)' in said


def test_a_robot_with_a_namespace_is_found(capsys, tmp_path):
    log = [(f'/fleet/r1{name}', *rest) for name, *rest in lockstep().log]
    types = {f'/fleet/r1{name}': kind for name, kind in TYPES.items()}
    bag = save(tmp_path / 'bag', log, types, 'fleet/r1')
    status, said, report = inspect(capsys, tmp_path, bag)
    assert status == 0 and report['windows'] == 57
    assert report['bag0.topic./fleet/r1/joint_states.messages'] == 63
    assert 'not used' not in said, 'the session mark is ours'


def test_steps_and_windows_are_those_that_training_says(capsys, tmp_path):
    bag = save(tmp_path / 'bag', wall(silent=range(30, 90), nan_at=20).log)
    report = inspect(capsys, tmp_path, bag, '--action_chunk_size', '5')[2]
    replay = empty_replay(AlgorithmConfig(6, 2, action_chunk_size=5), 1000, CONTRACT)
    for event in load_dataset(bag, CONTRACT):
        replay.append(event)
    assert (report['steps'], report['windows']) == (replay.steps, len(replay))
    assert report['bag0.segments'] == replay.segment > 1


def test_a_wrong_type_names_bag_topic_got_and_wanted(capsys, tmp_path):
    types = TYPES | {
        '/joint_states': 'std_msgs/msg/String',
        '/outcome': 'geometry_msgs/msg/TwistStamped',
    }
    bag = save(tmp_path / 'bag', lockstep().log, types)
    status, said, report = inspect(capsys, tmp_path, bag)
    assert status == 1
    assert report['bag0.unfit.0'] == (
        f'{bag}: topic /joint_states has the type std_msgs/msg/String, want '
        'sensor_msgs/msg/JointState'
    )
    assert report['bag0.unfit.1'].startswith(f'{bag}: topic /outcome has the type'), 'all of them'
    assert 'bag0.unfit.2' not in report and 'steps  ' not in said, 'and none twice'


def test_a_gap_is_measured_and_makes_ticks_stale(capsys, tmp_path):
    regular = inspect(capsys, tmp_path, save(tmp_path / 'bag', wall().log))
    assert regular[0] == 0 and regular[2]['bag0.topic./joint_states.gaps'] == 0
    assert regular[2]['bag0.topic./joint_states.stale_share'] == 0.0
    bag = save(tmp_path / 'gap', wall(silent=range(40, 60)).log)
    status, said, report = inspect(capsys, tmp_path, bag)
    at = 'bag0.topic./joint_states'
    assert status == 0
    assert report[f'{at}.gaps'] == 1
    assert report[f'{at}.longest_s'] == pytest.approx(21 * 0.05, abs=1e-3)
    # Received 25 ms before its tick, so too old from the fourth tick without one.
    assert report[f'{at}.stale_share'] == pytest.approx(17 / 100)
    assert report[f'{at}.rate_hz'] == pytest.approx(20.0, rel=1e-3), 'outside of gaps'
    assert 'warning: /joint_states: older than max_age_s (0.2 s) at 17 % of the ticks' in said
    assert report['bag0.topic./goal_pose.stale_share'] == 0.0


def test_a_stream_that_ends_early_is_a_gap(capsys, tmp_path):
    bag = save(tmp_path / 'bag', wall(silent=range(80, 101)).log)
    report = inspect(capsys, tmp_path, bag)[2]
    assert report['bag0.topic./joint_states.gaps'] == 1
    assert report['bag0.topic./joint_states.longest_s'] > 1.0


def test_a_slow_stream_is_held_against_the_control_rate(capsys, tmp_path):
    bag = save(tmp_path / 'bag', wall(silent=range(1, 101, 2)).log)
    status, said, report = inspect(capsys, tmp_path, bag)
    assert status == 0
    assert report['bag0.topic./joint_states.rate_hz'] == pytest.approx(10.0, rel=1e-3)
    assert 'warning: /joint_states: 10 Hz, the contract needs 20 Hz' in said


def test_clocks_that_differ_are_seen(capsys, tmp_path):
    bag = save(tmp_path / 'bag', wall(sensor_late_ns=3_000_000_000).log)
    status, said, report = inspect(capsys, tmp_path, bag)
    assert status == 1 and 'unfit: no window' in said
    assert report['bag0.topic./joint_states.beyond_tolerance'] == 101
    assert report['bag0.topic./joint_states.offset_s'] == pytest.approx(3.0, abs=0.01)
    assert 'further than stamp_tolerance_s (0.5 s)' in said


def test_a_recording_without_outcomes_is_unfit(capsys, tmp_path):
    log = [message for message in lockstep().log if message[0] != '/outcome']
    status, said, report = inspect(capsys, tmp_path, save(tmp_path / 'bag', log))
    assert status == 1
    assert 'unfit: /outcome (sensor_msgs/msg/JointState) has no message' in said
    assert report['bag0.counter.dropped_missing_outcome'] == 60
    assert 'dropped: 60 missing_outcome' in said


def test_actions_beyond_the_limits_are_counted(capsys, tmp_path):
    bag = save(tmp_path / 'bag', wall(action=(1.5, 1.0)).log)
    status, said, report = inspect(capsys, tmp_path, bag)
    assert status == 0
    assert (report['bag0.action.vx.outside'], report['bag0.action.vy.outside']) == (1.0, 0.0)
    assert (report['bag0.action.vx.at_limits'], report['bag0.action.vy.at_limits']) == (0.0, 1.0)
    assert 'warning: action vx: 100 % beyond its limits, 1.5 to 1.5' in said
    assert 'warning: action vy: 100 % at its limits' in said


def test_messages_that_cannot_be_used_are_counted_by_reason(capsys, tmp_path):
    bag = save(tmp_path / 'bag', wall(nan_at=50).log)
    status, said, report = inspect(capsys, tmp_path, bag)
    assert status == 0
    assert report['bag0.topic./joint_states.bad_messages'] == 1
    assert report['bag0.counter.dropped_bad_observation'] == 1
    assert re.search(r"bad +/joint_states: 1, first at 2\.50 s: topic 'joint_states'", said)
    assert 'is nan, wanted finite' in said


def test_another_contract_is_named_with_both_hashes(capsys, tmp_path):
    bag = save(tmp_path / 'bag', lockstep().log)
    status, said, report = inspect(capsys, tmp_path, bag, contract='ur5e_cube')
    other = load_contract('ur5e_cube')
    assert status == 1
    assert CONTRACT.hash in report['bag0.unfit.0'] and other.hash in report['bag0.unfit.0']
    assert 'unfit: /effector_pose' in said


def test_damage_is_told_and_the_rest_is_used(capsys, tmp_path):
    bag = save(tmp_path / 'bag', lockstep(40).log)
    path = bag / 'bag_0.mcap'
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 4])
    status, said, report = inspect(capsys, tmp_path, bag)
    assert status == 0 and 0 < report['steps'] < 800
    assert report['bag0.damage_stretches'] == 1 and report['bag0.damage_bytes'] > 0
    assert 'warning: damaged: left out ' in said


def test_rewards_that_tell_nothing_and_missing_success_are_warnings(capsys, tmp_path):
    status, said, _ = inspect(capsys, tmp_path, save(tmp_path / 'bag', wall().log))
    assert status == 0
    assert 'warning: none of 1 episodes succeeded' in said
    assert 'warning: the reward is -1 at every step' in said


def test_several_recordings_get_a_line_each_and_one_unfit_decides(capsys, tmp_path):
    save(tmp_path / 'all' / 'a_good', lockstep().log)
    log = [message for message in lockstep().log if message[0] != '/outcome']
    save(tmp_path / 'all' / 'bad', log)
    (tmp_path / 'all' / 'torn').mkdir()
    (tmp_path / 'all' / 'torn' / 'torn_0.mcap.active').write_bytes(b'')
    status, said, report = inspect(capsys, tmp_path, tmp_path / 'all', '--short')
    assert status == 1
    assert report['bags'] == 3 and report['steps'] == 60
    rows = said[said.index('recording ') :].splitlines()[1:]
    verdicts = {Path(row.split()[0]).name: row.split()[-1] for row in rows}
    assert verdicts == {'a_good': 'fit', 'bad': 'unfit', 'torn': 'unfit'}
    assert 'which a recorder is writing' in said
    assert inspect(capsys, tmp_path, tmp_path / 'all' / 'a_good', '--short')[0] == 0


@pytest.mark.parametrize(
    'name', ['mcap_default', 'mcap_zstd_split', 'sqlite3', 'sqlite3_zstd_message']
)
def test_without_a_contract_it_lists_what_is_there(capsys, tmp_path, name):
    status, said, report = inspect(capsys, tmp_path, BAGS / name, contract=None)
    assert status == 0
    document = yaml.safe_load((BAGS / name / 'metadata.yaml').read_text())
    listed = document['rosbag2_bagfile_information']['topics_with_message_count']
    for row in listed:
        topic = row['topic_metadata']
        assert report[f'bag0.topic.{topic["name"]}.messages'] == row['message_count']
        assert report[f'bag0.topic.{topic["name"]}.type'] == topic['type'] in said
    assert report['bag0.topic./tool_pose.interval_p50_s'] == pytest.approx(0.025, abs=2e-3)
    assert 'names no contract' in said and 'nothing was left out' in said


def test_the_killed_recording_says_what_is_missing_of_it(capsys, tmp_path):
    status, said, report = inspect(capsys, tmp_path, BAGS / 'mcap_killed', contract=None)
    assert status == 0 and report['bag0.messages'] == 3417
    assert report['bag0.damage_bytes'] == 24584
    assert 'cut off in the middle of a message' in ' '.join(said.split())


@pytest.mark.parametrize(
    ('arguments', 'says'),
    [
        (['nowhere', '--contract', 'point_reach'], 'no recording at nowhere'),
        (['BAG', '--contract', 'point_reech'], "did you mean 'point_reach'"),
        (['BAG', '--contract', 'point_reach', '--action_chunk_size', '0'], 'action_chunk_size'),
        (['BAG', '--picture', 'a.png'], '--picture needs --contract'),
        (['BAG', 'BAG', '--contract', 'point_reach', '--picture', 'a.png'], 'one file for 2 bags'),
        (['BAG', '--contract', 'point_reach', '--picture', 'a.jpg'], 'ends in .png'),
    ],
)
def test_wrong_arguments_are_one_line_and_status_2(capsys, tmp_path, arguments, says):
    bag = save(tmp_path / 'bag', lockstep(1).log)
    assert main(['inspect', *(str(bag) if a == 'BAG' else a for a in arguments)]) == 2
    said = capsys.readouterr()
    assert says in said.err and said.err.count('\n') == 1 and not said.out


def test_a_picture_is_drawn(capsys, tmp_path):
    from matplotlib.image import imread

    bag = save(tmp_path / 'bag', wall(silent=range(40, 60)).log)
    inspect(capsys, tmp_path, bag, '--picture', tmp_path / 'new' / 'gap.png')
    whole = save(tmp_path / 'whole', wall().log)
    inspect(capsys, tmp_path, bag, whole, '--picture', tmp_path / 'pictures')
    gap = imread(tmp_path / 'new' / 'gap.png')
    np.testing.assert_array_equal(imread(tmp_path / 'pictures' / 'bag.png'), gap)
    without = imread(tmp_path / 'pictures' / 'whole.png')

    def red(picture):
        return int(((picture[..., 0] > 0.75) & (picture[..., 1] < 0.45)).sum())

    assert red(gap) > 1.5 * red(without) > 0, 'limits are red too'


def test_without_matplotlib_the_extra_is_named_before_anything_is_read(
    capsys, tmp_path, monkeypatch
):
    bag = save(tmp_path / 'bag', lockstep(1).log)
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    arguments = ['inspect', str(bag), '--contract', 'point_reach']
    assert main([*arguments, '--picture', str(tmp_path / 'a.png')]) == 2
    assert "pip install 'qcfql_ros[demo]'" in capsys.readouterr().err
    assert main(arguments) == 0


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(['mcap_default/mcap_default_0.mcap', 'sqlite3/sqlite3_0.db3']),
    at=st.floats(0.0, 0.999),
    size=st.integers(1, 5000),
    cut=st.booleans(),
)
def test_whatever_is_damaged_there_is_a_verdict(tmp_path_factory, capsys, name, at, size, cut):
    folder = tmp_path_factory.mktemp('damaged')
    data = bytearray((BAGS / name).read_bytes())
    place = int(at * len(data))
    data[place : len(data) if cut else place + size] = b'' if cut else b'\xa5' * size
    path = folder / Path(name).name
    path.write_bytes(data)
    status, said, report = inspect(capsys, folder, path, contract=str(TELEOPERATION))
    assert status in (0, 1) and report['fit'] is (status == 0)
    last = [line for line in said.splitlines() if line.startswith(('fit: ', 'unfit: '))]
    assert last and last[-1].startswith('fit: ') is (status == 0)
    assert 'Traceback' not in said


@pytest.mark.parametrize(
    'name', ['mcap_default', 'mcap_zstd_split', 'sqlite3', 'sqlite3_zstd_message']
)
def test_a_recording_of_others_is_held_against_the_section_recordings(capsys, tmp_path, name):
    status, said, report = inspect(capsys, tmp_path, BAGS / name, contract=str(TELEOPERATION))
    assert status == 0
    outcomes = {k.rpartition('.')[2]: v for k, v in report.items() if '.outcome.' in k}
    assert outcomes == {'success': 4, 'failure': 1, 'timeout': 1, 'abort': 1}
    # Of joint states: fourteen ticks without, one NaN, one without a joint.
    assert report['bag0.topic./joint_states.bad_messages'] == 2
    assert report['bag0.topic./joint_states.rate_hz'] == pytest.approx(100.0, rel=0.02)
    assert report['bag0.topic./joint_states.stale_share'] == pytest.approx(14 / 640, abs=0.01)
    assert report['bag0.topic./arm/joint_trajectory.rate_hz'] == pytest.approx(20.0, rel=0.02)
    assert 'Hz, the contract needs' not in said, 'pauses between episodes are no slow topic'
    assert report['steps'] > 600
    assert "'gripper_finger_joint'\n            is there 0 times" in said


def test_without_the_section_recordings_it_says_so(capsys, tmp_path):
    status, said, _ = inspect(capsys, tmp_path, BAGS / 'sqlite3', '--short')
    assert status == 1
    assert 'has no section `recordings`' in ' '.join(said.split())


def test_an_event_topic_is_wanted_unless_there_are_labels(capsys, tmp_path):
    bag = tmp_path / 'bag'
    shutil.copytree(BAGS / 'sqlite3', bag)
    with closing(sqlite3.connect(bag / 'sqlite3_0.db3')) as connection, connection:
        connection.execute("UPDATE topics SET name = '/other' WHERE name = '/episode'")
    status, said, _ = inspect(capsys, tmp_path, bag, contract=str(TELEOPERATION))
    assert status == 1
    assert 'unfit: /episode (std_msgs/msg/String) is missing' in said
    start_ns = min(message[1] for message in read_bag(bag))
    write_labels(bag, Labels(start_ns, (Label(0.0, 10.0, 'success'),)))
    status, said, report = inspect(capsys, tmp_path, bag, contract=str(TELEOPERATION))
    assert status == 0 and report['bag0.outcome.success'] == 1
    assert 'labels      1 episodes of' in said


def test_segments_of_a_robot_started_twice_lie_where_they_were_received(tmp_path):
    ticks = Ticks()
    ticks.run(S0, 30, truncated=True)
    ticks.wait(10.0)
    first = ticks.now_ns
    ticks.run(S0, 20, truncated=True)
    report = inspect_bag(save(tmp_path / 'bag', ticks.log), CONTRACT, 4)
    (start, end), (later, last) = segment_times(report)
    assert 0.0 <= start < end < (first - report.start_ns) / 1e9 < later < last
    assert report.seconds - last < 0.01
