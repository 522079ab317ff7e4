# SPDX-License-Identifier: Apache-2.0
"""The watchdog: when it fires, what it sends, and when it does not."""

from __future__ import annotations

import json
import signal
import time

import numpy as np
import pytest
from fault_rig import Rig, position_contract, velocity_contract
from std_msgs.msg import Float64MultiArray, Header
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from qcfql_ros.contract import load_contract
from qcfql_ros.control.watchdog import Watchdog
from qcfql_ros.nodes.diagnostics import ERROR
from qcfql_ros.nodes.safe_command import SafeCommand

MS = 1_000_000
TIMEOUT = 200 * MS


def looks(watchdog, begin_ms, end_ms, step_ms=10):
    """Return the times of alarms in ms while it looks every `step_ms`."""
    return [t for t in range(begin_ms, end_ms, step_ms) if watchdog.look(t * MS)]


def test_a_silence_of_a_policy_that_drives_is_one_alarm():
    watchdog = Watchdog(TIMEOUT)
    assert looks(watchdog, 0, 1000) == []  # never heard
    watchdog.heard('running')
    assert looks(watchdog, 1000, 2000) == [1200]
    assert watchdog.heard('holding')  # ends the alarm, and arms it again
    assert looks(watchdog, 2000, 3000) == [2200]


@pytest.mark.parametrize('state', ['inactive', 'halted'])
def test_a_clean_end_is_no_alarm(state):
    watchdog = Watchdog(TIMEOUT)
    watchdog.heard('running')
    assert not watchdog.heard(state)
    assert looks(watchdog, 0, 2000) == []


def test_a_pause_of_the_watchdog_itself_is_no_silence():
    watchdog = Watchdog(TIMEOUT)
    watchdog.heard('running')
    assert looks(watchdog, 0, 50) == []
    assert not watchdog.look(10_000 * MS)  # stopped for ten seconds
    assert looks(watchdog, 10_010, 10_060) == []  # the time to read what is in the queue
    assert looks(watchdog, 10_060, 11_000) != []  # nothing was


@pytest.fixture
def contract(tmp_path):
    return load_contract(str(position_contract(tmp_path)))


def test_a_position_stays_at_the_last_command_else_where_it_was_measured(contract):
    safe = SafeCommand(contract)
    assert np.isnan(safe.values(0)).all()
    messages, unknown = safe.messages(safe.values(0), 0)
    assert (messages, unknown) == ([], "'commands' (x, y)")
    safe.on_measured('joints', np.array([0.25, -0.5]))
    assert safe.values(0).tolist() == [0.25, -0.5]
    safe.on_command('commands', Float64MultiArray(data=[0.5, 0.75]))
    assert safe.values(0).tolist() == [0.5, 0.75]
    ((topic, message),), unknown = safe.messages(safe.values(0), 0)
    assert (topic, list(message.data), unknown) == ('commands', [0.5, 0.75], '')


def test_of_a_trajectory_the_point_that_is_reached_is_held(tmp_path):
    file = position_contract(tmp_path)
    text = file.read_text().replace(
        'std_msgs/msg/Float64MultiArray', 'trajectory_msgs/msg/JointTrajectory'
    )
    text = text.replace('fields:\n', 'whole_chunk: true\n      fields:\n')
    file.write_text(text.replace(', command_rate_hz: 100.0, upsampling: linear', ''))
    safe = SafeCommand(load_contract(str(file)))
    message = JointTrajectory(joint_names=['y', 'x'])
    message.header.stamp.sec = 10
    for i in range(4):
        point = JointTrajectoryPoint(positions=[10.0 + i, float(i)])
        point.time_from_start.nanosec = (i + 1) * 100 * MS
        message.points.append(point)
    safe.on_command('commands', message)
    begin_ns = 10_000 * MS
    reached = [safe.values(begin_ns + t * MS).tolist() for t in (0, 100, 250, 9000)]
    assert reached == [[0.0, 10.0], [0.0, 10.0], [1.0, 11.0], [3.0, 13.0]]
    ((_, rest),), _ = safe.messages(safe.values(begin_ns + 250 * MS), 0)
    assert list(rest.points[-1].positions) == [1.0, 11.0]
    assert list(rest.points[-1].velocities) == [0.0, 0.0]


@pytest.fixture
def rig(tmp_path):
    it = Rig(tmp_path, position_contract(tmp_path))
    yield it
    it.close()


def start_both(rig):
    watchdog = rig.start('watchdog_node', contract=str(rig.contract_file))
    rig.until(lambda: rig.status('watchdog')[1], 'the watchdog')  # it and we hear each other
    policy = rig.start_policy()
    rig.until_driving()
    return watchdog, policy


def alarms(rig):
    return int(rig.status('watchdog')[2].get('alarms', 0))


def fired(rig, begin_ns):
    """Wait for the alarm and its repetitions; return when the first command of it came."""
    rig.until(lambda: alarms(rig) == 1, 'the alarm')
    assert rig.status('watchdog')[0] == ERROR
    assert 'no heartbeat came for' in rig.status('watchdog')[1]
    values = rig.commands[-1][1].data
    same = next(t for t, m in rig.commands if t > begin_ns and m.data == values)
    # At the rate of commands, 100 Hz, for 1 s.
    rig.until(lambda: rig.commands[-1][0] - same > 0.9e9, 'the repetitions')
    repeated = [m.data for t, m in rig.commands if t >= same]
    assert len(repeated) > 50
    assert all(data == values for data in repeated)
    return same


def test_a_killed_policy_leaves_its_last_positions_standing_and_is_told(rig):
    watchdog, policy = start_both(rig)
    policy.kill()
    begin_ns = time.monotonic_ns()
    policy.wait()
    heard_ns = rig.beats[-1][0]
    rig.until(lambda: alarms(rig) == 1, 'the alarm')
    last_of_policy = [m for t, m in rig.commands if t < heard_ns + 100 * MS][-1]
    fired(rig, begin_ns)
    assert list(rig.commands[-1][1].data) == list(last_of_policy.data)
    assert 'the safe command was sent' in watchdog.log.read_text()
    # The robot stays put in the next run, until somebody resumes it.
    rig.start_policy()
    rig.until(lambda: rig.value('state') == 'halted', 'the second run')
    assert 'did not end cleanly' in rig.status('policy: control')[1]
    assert rig.ask('resume').success
    rig.until_driving()
    assert alarms(rig) == 1


def test_a_stopped_policy_is_an_alarm_that_ends_when_it_goes_on(rig):
    _, policy = start_both(rig)
    policy.send_signal(signal.SIGSTOP)
    fired(rig, time.monotonic_ns())
    policy.send_signal(signal.SIGCONT)
    rig.until(lambda: rig.status('watchdog')[2]['alarm'] == 'False', 'the end of the alarm')
    rig.until_driving()
    policy.send_signal(signal.SIGSTOP)
    rig.until(lambda: alarms(rig) == 2, 'the second alarm')
    policy.send_signal(signal.SIGCONT)


def test_a_stopped_watchdog_does_not_fire_when_it_goes_on(rig):
    watchdog, _ = start_both(rig)
    watchdog.send_signal(signal.SIGSTOP)
    beats = len(rig.beats)
    rig.until(lambda: len(rig.beats) > beats + 30, 'heartbeats that it does not read')
    rig.until(lambda: 'nobody watches' in rig.status('policy: control')[1], 'the warning')
    watchdog.send_signal(signal.SIGCONT)
    statuses = len(rig.statuses)
    rig.until(
        lambda: any(
            s.name == 'watchdog' and {p.key: p.value for p in s.values}['armed'] == 'True'
            for _, array in rig.statuses[statuses + 2 :]
            for s in array.status
        ),
        'diagnostics after it went on',
    )
    assert alarms(rig) == 0


def test_a_policy_that_ends_cleanly_is_no_alarm(rig):
    _, policy = start_both(rig)
    policy.terminate()
    assert policy.wait(timeout=20) == 0
    rig.until(lambda: rig.status('watchdog')[2]['policy'] == 'inactive', 'the last heartbeat')
    ended_ns = time.monotonic_ns()
    rig.until(lambda: rig.statuses[-1][0] > ended_ns + 1e9, 'the next diagnostics')
    assert alarms(rig) == 0
    latch = json.loads((rig.folder / 'state/root_hand.json').read_text())
    assert latch['driving'] is False


def test_without_a_watchdog_a_policy_whose_contract_wants_one_does_not_start(rig):
    rig.start_policy()
    rig.until(lambda: 'wants a watchdog' in rig.value('waiting_for'), 'the refusal')
    assert rig.commands == []
    rig.start('watchdog_node', contract=str(rig.contract_file))
    rig.until_driving()


def test_where_the_contract_wants_none_the_watchdog_does_not_start(tmp_path):
    it = Rig(tmp_path, velocity_contract(tmp_path))
    try:
        watchdog = it.start('watchdog_node', contract=str(it.contract_file))
        assert watchdog.wait(timeout=30) == 2
        assert 'says no safety.watchdog' in watchdog.log.read_text()
    finally:
        it.close()


def test_velocities_are_held_by_the_hold_row(tmp_path):
    changes = ('resume_after_stale: false', 'watchdog: {timeout_s: 0.2}')
    it = Rig(tmp_path, velocity_contract(tmp_path, a=changes))
    try:
        it.start('watchdog_node', contract=str(it.contract_file))
        beat = it.node.create_publisher(Header, 'policy/heartbeat', 10)
        it.until(beat.get_subscription_count, 'the watchdog')
        it.until(lambda: it.node.count_publishers('twist_command') == 2, 'its command topic')

        def armed():
            beat.publish(Header(frame_id='running'))
            time.sleep(0.02)
            return it.status('watchdog')[2].get('armed') == 'True'

        it.until(armed, 'a heartbeat that is heard')
        it.until(lambda: len(it.commands) > 10, 'the safe command')
        assert not any(it.moves(message) for _, message in it.commands)
    finally:
        it.close()
