# SPDX-License-Identifier: Apache-2.0
"""The policy node on real topics, with a robot by script, in lockstep."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import rclpy
from geometry_msgs.msg import PoseStamped, TwistStamped
from lifecycle_msgs.msg import State
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import UInt8MultiArray
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from qcfql_ros.algorithm.policy import ChunkPolicy, PolicyInfo
from qcfql_ros.contract import find_contract, load_contract
from qcfql_ros.contract.chunk_record import decode_chunk
from qcfql_ros.contract.decode import stamp_of
from qcfql_ros.contract.decode_commands import decode_commands
from qcfql_ros.contract.named_vector import (
    Outcome,
    decode_step,
    outcome_fields,
    set_stamp,
    vector_message,
)
from qcfql_ros.control.planner import chunk_seed
from qcfql_ros.errors import ModelError, ParameterError
from qcfql_ros.nodes.diagnostics import ERROR, OK, WARN
from qcfql_ros.nodes.policy_node import PolicyNode
from qcfql_ros.nodes.process import Stop, run_node
from qcfql_ros.nodes.qos import RECORD_QOS
from qcfql_ros.nodes.weights import WEIGHTS_QOS, split

CONTRACT = load_contract('point_reach')
PERIOD = CONTRACT.period_ns
START = 1_000_000_000_000
K = 4


def make_policy(version=0, seed=1, contract_hash=CONTRACT.hash):
    info = PolicyInfo(
        contract_name=CONTRACT.name,
        contract_hash=contract_hash,
        state_dim=CONTRACT.state_dim,
        action_dim=CONTRACT.action_dim,
        action_chunk_size=K,
        hidden_dims=(16, 16),
        version=version,
    )
    return ChunkPolicy.random(info, seed)


def waiting_contract(folder):
    """Return the file of the same contract, but for a robot that stays put after a crash."""
    text = find_contract('point_reach').read_text()
    assert 'after_crash: resume' in text
    file = folder / 'waiting.yaml'
    file.write_text(text.replace('after_crash: resume', 'after_crash: wait'))
    return str(file)


class ScriptedRobot(Node):
    """Answers each command at once, in lockstep; writes down all it hears."""

    def __init__(self, episode_ticks=1000):
        super().__init__('robot')
        self.episode_ticks = episode_ticks
        self.limit = 0
        self.tick = 0  # executed
        self.in_episode = 0
        self.stamp = START
        self.nan_at = set()
        self.commands, self.steps, self.chunks = [], [], []
        self.joints = self.create_publisher(JointState, 'joint_states', RECORD_QOS)
        self.goal = self.create_publisher(PoseStamped, 'goal_pose', RECORD_QOS)
        self.outcome = self.create_publisher(JointState, 'outcome', RECORD_QOS)
        self.weights = self.create_publisher(UInt8MultiArray, 'policy_weights', WEIGHTS_QOS)
        for kind, topic, callback in (
            (TwistStamped, 'twist_command', self.on_command),
            (JointState, 'policy/step', self.steps.append),
            (JointTrajectory, 'policy/chunk', self.chunks.append),
        ):
            self.create_subscription(kind, topic, callback, RECORD_QOS)

    def sensors(self):
        x = float('nan') if self.tick in self.nan_at else 0.01 * self.in_episode
        joints = JointState(name=['x', 'y'], position=[x, 0.5], velocity=[0.0, 0.0])
        goal = PoseStamped()
        goal.pose.position.x = 1.0
        for publisher, message in ((self.joints, joints), (self.goal, goal)):
            set_stamp(message, self.stamp)
            publisher.publish(message)

    def on_command(self, message):
        self.commands.append((stamp_of(message), message))
        if stamp_of(message) == self.stamp and self.tick < self.limit:
            self.execute()

    def execute(self):
        self.tick += 1
        self.in_episode += 1
        ended = self.in_episode == self.episode_ticks
        outcome = Outcome(self.stamp, 0.0, False, ended, False, 0, self.tick, ended)
        self.outcome.publish(vector_message(self.stamp, *outcome_fields(outcome)))
        self.stamp += PERIOD
        self.sensors()
        if ended:
            self.in_episode = 0
            self.stamp += PERIOD
            self.sensors()


class Scene:
    """Robot and policy node in one context, spun by the test."""

    def __init__(self, tmp_path, policy=None, episode_ticks=1000, **parameters):
        file = tmp_path / 'policy.safetensors'
        file.write_bytes((policy or make_policy()).to_bytes())
        values = {
            'contract': 'point_reach',
            'model': str(file),
            'pacing': 'lockstep',
            'device': 'cpu',
            'seed': 7,
            'state_dir': str(tmp_path / 'state'),
            **parameters,
        }
        arguments = ['--ros-args']
        for name, value in values.items():
            arguments += ['-p', f'{name}:={json.dumps(value)}']
        rclpy.init(args=arguments)
        self.closed = False
        self.stop = Stop()
        self.executor = SingleThreadedExecutor()
        self.policy = self.robot = None
        try:
            self.policy = PolicyNode(self.stop)
            self.robot = ScriptedRobot(episode_ticks)
        except BaseException:
            self.close()
            raise
        self.executor.add_node(self.policy)
        self.executor.add_node(self.robot)

    def until(self, predicate, what, timeout_s=15.0):
        deadline = time.monotonic() + timeout_s
        while not predicate():
            assert time.monotonic() < deadline, f'waited {timeout_s} s for {what}'
            self.executor.spin_once(timeout_sec=0.05)

    def begin(self):
        robot = self.robot
        publishers = (robot.joints, robot.goal, robot.outcome, robot.weights)
        self.until(lambda: all(p.get_subscription_count() for p in publishers), 'subscriptions')
        robot.sensors()

    def drive(self, ticks):
        """Let the robot execute `ticks` ticks in all; the command of the next one comes too."""
        if not self.robot.limit:
            self.robot.limit = ticks
            self.begin()
        elif self.robot.limit < ticks:
            self.robot.limit = ticks
            if self.robot.commands[-1][0] == self.robot.stamp:
                self.robot.execute()
        self.until(
            lambda: self.robot.tick >= ticks and len(self.robot.steps) > ticks, f'{ticks} ticks'
        )

    def steps(self):
        return [decode_step(message, CONTRACT) for message in self.robot.steps]

    def call(self, service):
        client = self.robot.create_client(Trigger, f'policy/{service}')
        self.until(client.service_is_ready, service)
        future = client.call_async(Trigger.Request())
        self.until(future.done, f'the answer of {service}')
        return future.result()

    def close(self):
        if self.closed:
            return
        self.closed = True
        if self.policy is not None:
            self.policy.close()
        self.executor.shutdown()
        # The weights of one test are latched: they must not reach the next one.
        for node in (self.policy, self.robot):
            if node is not None:
                node.destroy_node()
        rclpy.try_shutdown()


@pytest.fixture
def scene(tmp_path):
    scenes = []

    def make(**kwargs):
        scenes.append(Scene(tmp_path, **kwargs))
        return scenes[-1]

    yield make
    for made in scenes:
        made.close()


def test_every_tick_carries_its_stamp_and_row_and_every_chunk_its_making(scene):
    it = scene(episode_ticks=6)
    it.drive(14)
    it.until(lambda: len(it.robot.chunks) == 5, 'the fifth chunk')
    steps = it.steps()[:14]
    gaps = [6, 12]  # after these ticks the final observation takes a stamp
    stamps = [START + (i + sum(i >= g for g in gaps)) * PERIOD for i in range(14)]
    assert [s.stamp_ns for s in steps] == stamps
    assert [s.episode for s in steps] == [0] * 6 + [1] * 6 + [2] * 2
    # A chunk of k rows; the end of an episode drops the rest of it.
    assert [s.index for s in steps] == [0, 1, 2, 3, 0, 1] * 2 + [0, 1]
    assert [s.chunk for s in steps] == [0, 0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3, 4, 4]
    assert all(s.lockstep and s.source == 0 and s.lead_ns == 0 for s in steps)
    sent = dict(it.robot.commands)
    policy = make_policy()
    chunks = {c.chunk: c for c in (decode_chunk(m, CONTRACT) for m in it.robot.chunks)}
    for step in steps:
        row = chunks[step.chunk].actions[step.index]
        np.testing.assert_array_equal(step.action, row)
        commanded = decode_commands(CONTRACT, {'twist_command': sent[step.stamp_ns]})
        np.testing.assert_allclose(commanded, row, atol=1e-6)
    for number, (episode, place, tick) in enumerate([(0, 0, 0), (0, 1, 4), (1, 0, 6)]):
        chunk = chunks[number]
        assert chunk.seed == chunk_seed(7, episode, place)
        assert chunk.digest == policy.digest
        assert set(chunk.observation_stamps.values()) == {stamps[tick]}
        seen = np.array([0.01 * (tick % 6), 0.5, 0.0, 0.0, 1.0, 0.0], np.float32)
        np.testing.assert_array_equal(policy.plan(seen, chunk.seed), chunk.actions)


def test_the_same_seed_repeats_the_same_payloads_and_stamps(tmp_path):
    def run(seed):
        it = Scene(tmp_path, episode_ticks=5, seed=seed)
        try:
            it.drive(12)
            return [(s.stamp_ns, s.action.tolist(), s.chunk) for s in it.steps()[:12]]
        finally:
            it.close()

    assert run(3) == run(3) != run(4)


def test_an_observation_that_is_not_a_number_is_held_and_counted(scene):
    it = scene()
    it.robot.nan_at = {2}
    it.drive(5)
    steps = it.steps()[:5]
    assert [s.source for s in steps] == [0, 0, 2, 0, 0]
    assert steps[2].action.tolist() == list(CONTRACT.action.hold)
    assert (steps[3].chunk, steps[3].index) == (1, 0)
    assert it.policy._counters.refused >= 1


def send(robot, blob, version):
    for part in split(blob, version):
        robot.weights.publish(UInt8MultiArray(data=part))


def test_new_weights_are_used_from_the_next_chunk_on(scene):
    it = scene()
    it.drive(2)
    new = make_policy(version=5, seed=2)
    send(it.robot, new.to_bytes(), 5)
    it.until(lambda: it.policy._gate.accepted == 1, 'the new policy')
    it.drive(9)
    it.until(lambda: len(it.robot.chunks) == 3, 'the third chunk')
    steps = it.steps()[:9]
    assert [s.policy_version for s in steps] == [0] * 4 + [5] * 5
    chunks = [decode_chunk(m, CONTRACT) for m in it.robot.chunks]
    assert [c.digest for c in chunks[:3]] == [make_policy().digest, new.digest, new.digest]
    assert (it.policy._gate.rejected, it.policy._gate.reason) == (0, '')


@pytest.mark.parametrize(
    ('policy', 'version', 'reason'),
    [
        (make_policy(5, 2, 'f' * 64), 5, 'trained for contract'),
        (make_policy(5, 2), 6, 'the file itself says version 5'),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_the_old_ones_go_on(
    scene, policy, version, reason
):
    it = scene()
    it.drive(2)
    send(it.robot, policy.to_bytes(), version)
    it.until(lambda: it.policy._gate.rejected == 1, 'the refusal')
    assert reason in it.policy._gate.reason
    it.drive(9)
    assert {s.policy_version for s in it.steps()} == {0}


def test_a_refusal_is_said_once_and_hides_no_later_warning(scene):
    it = scene()
    once_a_second = [t for t in it.policy.timers if t.timer_period_ns == 10**9]
    once_a_second[0].cancel()  # this test judges in its place
    it.drive(2)
    send(it.robot, make_policy(5, 2, 'f' * 64).to_bytes(), 5)
    it.until(lambda: it.policy._gate.rejected == 1, 'the refusal')
    level, text = it.policy._diagnostics.judge('')
    assert (level, text.startswith('weights refused: ')) == (WARN, True)
    assert it.policy._diagnostics.judge('') == (OK, '')
    it.policy._counters.ticks += 10
    it.policy._counters.clipped += 7
    assert it.policy._diagnostics.judge('') == (WARN, '7 of 20 action numbers clipped')


def test_versions_must_rise_and_damage_is_refused(scene):
    it = scene()
    it.drive(1)
    send(it.robot, make_policy(5, 2).to_bytes(), 5)
    it.until(lambda: it.policy._gate.accepted == 1, 'version 5')
    send(it.robot, make_policy(4, 3).to_bytes(), 4)
    it.until(lambda: it.policy._gate.rejected == 1, 'the refusal of version 4')
    assert 'not newer than version 5' in it.policy._gate.reason
    blob = bytearray(make_policy(6, 4).to_bytes())
    blob[-1] ^= 1
    send(it.robot, bytes(blob), 6)
    it.until(lambda: it.policy._gate.rejected == 2, 'the refusal of the damaged one')
    assert 'damaged' in it.policy._gate.reason


def test_a_halt_takes_effect_at_the_next_tick_and_stays_until_resumed(scene, tmp_path):
    it = scene()
    it.drive(3)  # the command of tick 3 is out already
    assert it.call('halt').success
    it.robot.limit = 1000
    it.robot.execute()
    heard = it.robot.steps
    it.until(lambda: it.robot.tick == 5 and len(heard) == 5, 'the safe command')
    steps = it.steps()
    assert [s.source for s in steps] == [0, 0, 0, 0, 3]
    assert steps[-1].action.tolist() == list(CONTRACT.action.hold)
    assert json.loads((tmp_path / 'state/root_point_reach.json').read_text())['halted']
    # A second halt is answered after everything before it was handled: nothing more was sent.
    assert it.call('halt').success
    assert len(it.robot.commands) == 5
    it.robot.limit = 7
    assert it.call('resume').success
    it.until(lambda: it.robot.tick == 7 and len(heard) > 5, 'driving again')
    assert (it.steps()[5].source, it.steps()[5].episode) == (0, 1)


def test_a_halt_outlives_cleanup_and_restart(scene):
    it = scene()
    it.drive(2)
    assert it.call('halt').success
    for transition in ('deactivate', 'cleanup', 'configure', 'activate'):
        getattr(it.policy, f'trigger_{transition}')()
    assert it.policy._latch.halted
    it.close()
    again = scene()
    assert again.policy._latch.reason == 'asked for by ~/halt'


def test_a_halt_kept_in_memory_outlives_cleanup_and_no_restart(scene):
    it = scene(state_dir='')
    it.drive(2)
    assert it.policy._latch.file is None
    assert it.call('halt').success
    for transition in ('deactivate', 'cleanup', 'configure'):
        getattr(it.policy, f'trigger_{transition}')()
    assert it.policy._latch.reason == 'asked for by ~/halt'
    it.close()
    assert not scene(state_dir='').policy._latch.halted


def test_a_thread_that_died_is_no_clean_end(scene, tmp_path):
    it = scene(contract=waiting_contract(tmp_path))
    it.drive(2)
    it.stop.request(RuntimeError('tested'))
    it.close()
    again = scene(contract=waiting_contract(tmp_path))
    assert again.policy._latch.reason == 'the process before this one did not end cleanly'


def test_an_error_in_a_callback_is_known_when_the_node_closes(capfd):
    seen = []

    class Breaks(Node):
        def __init__(self, stop):
            super().__init__('breaks')
            self.stop = stop
            self.create_timer(0.01, self.on_timer)

        def on_timer(self):
            raise RuntimeError('tested')

        def close(self):
            seen.append(self.stop.error)

    assert run_node(Breaks, []) == 1
    assert [str(error) for error in seen] == ['tested']
    assert capfd.readouterr().err.count('RuntimeError: tested') == 1


def test_where_no_latch_can_be_kept_a_waiting_robot_starts_halted_and_says_why(scene, tmp_path):
    (tmp_path / 'a_file').write_text('')
    it = scene(contract=waiting_contract(tmp_path), state_dir=str(tmp_path / 'a_file'))
    level, text = it.policy._diagnostics.judge('')
    assert level == ERROR
    assert 'cannot be written' in text
    assert 'halted' in text
    assert 'call ~/resume to drive' in text


@pytest.mark.parametrize('transition', ['trigger_deactivate', 'close'])
def test_the_last_command_is_the_hold_row(scene, transition):
    it = scene()
    it.drive(3)
    getattr(it.policy, transition)()
    heard = (it.robot.steps, it.robot.commands)
    it.until(lambda: all(len(messages) == 5 for messages in heard), 'the safe command')
    last = it.robot.commands[-1][1]
    np.testing.assert_array_equal(
        decode_commands(CONTRACT, {'twist_command': last}), CONTRACT.action.hold
    )
    assert it.steps()[-1].source == 3


def test_a_deactivated_node_can_be_activated_again(scene):
    it = scene()
    it.drive(2)
    it.policy.trigger_deactivate()
    state = it.policy._state_machine.current_state[0]
    assert state == State.PRIMARY_STATE_INACTIVE
    it.policy.trigger_activate()
    before = len(it.robot.steps)
    it.robot.stamp += 10 * PERIOD
    it.robot.limit = 100
    it.begin()
    it.until(lambda: len(it.robot.steps) > before + 5, 'ticks after the second activation')


def test_a_model_of_another_contract_is_refused_naming_both(tmp_path):
    with pytest.raises(ModelError, match=f"'point_reach' \\({'f' * 12}\\).*{CONTRACT.hash[:12]}"):
        Scene(tmp_path, policy=make_policy(contract_hash='f' * 64))


def test_a_node_without_a_model_says_which_parameter_to_give(tmp_path):
    with pytest.raises(ParameterError, match='parameter model is not set'):
        Scene(tmp_path, model='')


def start_process(*parameters):
    arguments = [a for p in parameters for a in ('-p', p)]
    return subprocess.Popen(
        [sys.executable, '-m', 'qcfql_ros.nodes.policy_node', '--ros-args', *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        start_new_session=True,
    )


@pytest.mark.parametrize(
    ('parameters', 'words'),
    [
        (
            ['contract:=point_reach', 'model:=/nowhere.safetensors'],
            '/nowhere.safetensors: no such',
        ),
        (['contract:=point_reach', 'pacing:=lockstp'], "did you mean 'lockstep'"),
    ],
)
def test_a_wrong_setting_ends_the_process_with_one_line_and_status_2(parameters, words):
    process = start_process(*parameters)
    _, errors = process.communicate(timeout=60)
    lines = [line for line in errors.splitlines() if not line.startswith('[')]
    assert process.returncode == 2
    assert len(lines) == 1
    assert words in lines[0]


def test_a_robot_whose_policy_was_killed_stays_put_in_the_next_run(scene, tmp_path, monkeypatch):
    monkeypatch.setenv('ROS_HOME', str(tmp_path / 'ros_home'))
    model = tmp_path / 'policy.safetensors'
    model.write_bytes(make_policy().to_bytes())
    mark = tmp_path / 'ros_home/qcfql_ros/root_point_reach.json'
    contract = waiting_contract(tmp_path)
    process = start_process(f'contract:={contract}', f'model:={model}', 'pacing:=lockstep')
    try:
        deadline = time.monotonic() + 60
        while not (mark.exists() and json.loads(mark.read_text())['driving']):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
    finally:
        process.kill()
        process.communicate()
    it = scene(contract=contract, state_dir='')
    assert it.policy._latch.reason == 'the process before this one did not end cleanly'
    it.robot.limit = 10
    it.begin()
    assert it.call('halt').success  # answered after the sensors: all that was to be sent is out
    assert [s.source for s in it.steps()] in ([], [3])
    assert it.call('resume').success
    it.until(lambda: it.robot.tick == 10, 'driving again')


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_process_with_the_hold_row_and_status_0(number, tmp_path):
    file = tmp_path / 'policy.safetensors'
    file.write_bytes(make_policy().to_bytes())
    rclpy.init()
    process = None
    executor = SingleThreadedExecutor()
    try:
        robot = ScriptedRobot()
        robot.limit = 10**9
        executor.add_node(robot)
        process = start_process('contract:=point_reach', f'model:={file}', 'pacing:=lockstep')
        deadline = time.monotonic() + 60
        publishers = (robot.joints, robot.goal, robot.outcome)
        while not all(p.get_subscription_count() for p in publishers):
            assert time.monotonic() < deadline
            executor.spin_once(timeout_sec=0.05)
        robot.sensors()
        while robot.tick < 20 or process.poll() is None:
            assert time.monotonic() < deadline
            if robot.tick == 20:
                process.send_signal(number)
                robot.tick += 1
            executor.spin_once(timeout_sec=0.05)
        assert process.wait(timeout=5) == 0, process.stderr.read()
        while decode_step(robot.steps[-1], CONTRACT).source != 3:
            assert time.monotonic() < deadline, 'no safe command came'
            executor.spin_once(timeout_sec=0.05)
        while robot.commands[-1][0] < stamp_of(robot.steps[-1]):
            assert time.monotonic() < deadline, 'no safe command came'
            executor.spin_once(timeout_sec=0.05)
        row = decode_commands(CONTRACT, {'twist_command': robot.commands[-1][1]})
        np.testing.assert_array_equal(row, CONTRACT.action.hold)
    finally:
        if process is not None:
            process.kill()
            process.communicate()
        executor.shutdown()
        rclpy.try_shutdown()
