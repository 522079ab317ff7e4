# SPDX-License-Identifier: Apache-2.0
"""gym_robot_node as its own process, commanded over real DDS."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import JointState
from std_msgs.msg import UInt64

from qcfql_ros.cli.session import node_command
from qcfql_ros.contract import load_contract
from qcfql_ros.contract.decode import Decoder, stamp_of
from qcfql_ros.contract.encode import Encoder, command_values
from qcfql_ros.contract.message_types import message_class
from qcfql_ros.contract.named_vector import decode_outcome
from qcfql_ros.nodes.qos import CREDITS_QOS, RECORD_QOS, command_qos, sensor_qos

CONTRACT = load_contract('point_reach')
PERIOD_NS = CONTRACT.period_ns
FIRST_NS = 1_000_000_000_000


class Commander:
    """Stands in for the policy: gathers sensors by stamp and answers when it is told to."""

    def __init__(self, pacing='lockstep', seed=0):
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node('commander', context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.rng = np.random.default_rng(seed)
        self.decoder, self.encoder = Decoder(CONTRACT), Encoder(CONTRACT)
        self.sets, self.outcomes, self.diagnostics = {}, [], {}
        self.open = {}
        self.publishers = {
            c.topic: self.node.create_publisher(
                message_class(c.type), c.topic, command_qos(pacing)
            )
            for c in CONTRACT.action.commands
        }
        for stream in CONTRACT.streams.values():
            self.node.create_subscription(
                message_class(stream.type),
                stream.topic,
                partial(self._on_sensor, stream.name),
                sensor_qos(pacing),
            )
        self.node.create_subscription(
            JointState, 'outcome', lambda m: self.outcomes.append(decode_outcome(m)), RECORD_QOS
        )
        self.node.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)

    def _on_sensor(self, name, message):
        stamp_ns = stamp_of(message)
        messages = self.open.setdefault(stamp_ns, {})
        messages[name] = self.decoder.decode_message(name, message).values
        if len(messages) == len(CONTRACT.streams):
            self.sets[stamp_ns] = self.decoder.observation(self.open.pop(stamp_ns))

    def _on_diagnostics(self, message):
        for status in message.status:
            if status.name == 'robot: pacing':
                self.diagnostics = {v.key: v.value for v in status.values}

    def spin_until(self, predicate, timeout_s=60.0):
        deadline = time.monotonic() + timeout_s
        while not predicate():
            assert time.monotonic() < deadline, (len(self.outcomes), self.diagnostics)
            self.executor.spin_once(timeout_sec=0.05)

    def connect(self):
        self.spin_until(lambda: all(p.get_subscription_count() for p in self.publishers.values()))

    def command(self, row, stamp_ns):
        for topic, _, message in self.encoder.commands(command_values(CONTRACT, row), stamp_ns):
            self.publishers[topic].publish(message)

    def step(self, stamp_ns, row=None):
        """Command the tick of this stamp; return its outcome and the next observation."""
        self.command(self.rng.uniform(-1, 1, 2) if row is None else row, stamp_ns)
        self.spin_until(
            lambda: (
                self.outcomes
                and self.outcomes[-1].stamp_ns == stamp_ns
                and stamp_ns + PERIOD_NS in self.sets
            )
        )
        return self.outcomes[-1]

    def run_episodes(self, count):
        """Drive whole episodes from the newest observation on."""
        self.spin_until(lambda: self.sets)
        stamp_ns = max(self.sets)
        ended = 0
        while ended < count:
            outcome = self.step(stamp_ns)
            stamp_ns += PERIOD_NS * (2 if outcome.ended else 1)
            ended += outcome.ended
        return stamp_ns

    def close(self):
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def commander():
    made = []

    def make(**arguments):
        made.append(Commander(**arguments))
        return made[-1]

    yield make
    for one in made:
        if one.context.ok():
            one.close()


@pytest.fixture
def robot():
    """Return a function that starts the node with parameters."""
    started = []

    def start(**parameters):
        namespace = parameters.pop('namespace', '')
        command = node_command(
            'gym_robot_node',
            {'robot': 'point_reach', 'pacing': 'lockstep', **parameters},
            namespace,
        )
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=10)


def stop(process, number=signal.SIGINT):
    process.send_signal(number)
    _, text = process.communicate(timeout=10)
    return process.returncode, text


def test_lockstep_gives_every_stream_outcome_and_stamp_to_the_nanosecond(robot, commander):
    robot(episodes=2, seed=4)
    one = commander()
    one.connect()
    one.run_episodes(2)
    one.spin_until(lambda: one.diagnostics.get('finished') == '1')
    ticks = len(one.outcomes)
    assert [o.tick for o in one.outcomes] == list(range(1, ticks + 1))
    last_of_first = next(i for i, o in enumerate(one.outcomes) if o.ended)
    assert [o.episode for o in one.outcomes] == [int(i > last_of_first) for i in range(ticks)]
    # Sensors: one set a tick, one more for each episode, no hole and none twice.
    assert sorted(one.sets) == [FIRST_NS + i * PERIOD_NS for i in range(ticks + 2)]
    # The set after an end is the last of its episode; nobody acted on it; then the reset.
    final_ns = one.outcomes[last_of_first].stamp_ns + PERIOD_NS
    assert final_ns not in {o.stamp_ns for o in one.outcomes}
    assert np.linalg.norm(one.sets[final_ns] - one.sets[final_ns + PERIOD_NS]) > 0.1
    assert one.diagnostics['tick'] == str(ticks)


def test_the_same_seed_gives_the_same_payloads_and_stamps(robot, commander):
    runs = []
    for seed in (1, 1, 2):
        process = robot(episodes=1, seed=seed)
        one = commander(seed=9)
        one.connect()
        one.run_episodes(1)
        runs.append(({k: v.tobytes() for k, v in one.sets.items()}, one.outcomes))
        one.close()
        assert stop(process)[0] == 0
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_no_sensor_goes_out_before_the_commander_is_there_and_none_is_lost(robot, commander):
    robot()
    one = commander()
    one.spin_until(lambda: one.sets)
    assert min(one.sets) == FIRST_NS
    one.spin_until(lambda: one.diagnostics)
    assert len(one.sets) == 1  # it waits for the command of that stamp, and for nothing else


def test_it_waits_for_as_many_subscribers_as_expected(robot, commander):
    robot(expected_subscribers=2)
    one = commander()
    one.spin_until(lambda: 'subscriber' in one.diagnostics.get('waiting_for', ''))
    assert not one.sets
    two = commander()
    one.spin_until(lambda: one.sets)
    two.spin_until(lambda: two.sets)


def test_a_wait_over_five_seconds_is_an_error_that_names_the_topic(robot, commander):
    process = robot()
    one = commander()
    one.spin_until(lambda: one.sets)
    one.spin_until(lambda: one.diagnostics.get('waiting_for') == 'command twist_command')
    until = time.monotonic() + 5.5
    one.spin_until(lambda: time.monotonic() > until)
    _, text = stop(process)
    assert text.count('waiting for command twist_command since 5 s') == 1


def test_a_stale_or_broken_command_is_not_executed(robot, commander):
    robot()
    one = commander()
    one.connect()
    one.spin_until(lambda: one.sets)
    one.command([1.0, 1.0], FIRST_NS - PERIOD_NS)
    _, _, message = one.encoder.commands([0.0, 0.0], FIRST_NS)[0]
    message.twist.linear.x = float('nan')
    one.publishers['twist_command'].publish(message)
    one.spin_until(lambda: one.diagnostics.get('waiting_for', '').startswith('command'))
    assert not one.outcomes
    outcome = one.step(FIRST_NS, [1.0, 0.0])  # a good one of the same stamp goes through
    assert outcome.tick == 1
    assert one.sets[FIRST_NS + PERIOD_NS][2] == pytest.approx(1.0)  # half of 2 m/s after a tick


def test_a_new_commander_gets_a_new_episode_and_no_neighbouring_stamps(robot, commander):
    robot()
    one = commander()
    one.connect()
    one.spin_until(lambda: one.sets)
    for i in range(5):
        one.step(FIRST_NS + i * PERIOD_NS, [0.0, 0.0])
    last_ns = max(one.sets)
    one.close()
    two = commander()
    two.spin_until(lambda: two.sets)
    two.connect()
    stamp_ns = max(two.sets)
    assert stamp_ns > last_ns + 2 * PERIOD_NS
    outcome = two.step(stamp_ns)
    assert (outcome.episode, outcome.tick) == (1, 6)


def test_a_commander_that_comes_while_a_dead_one_is_still_seen_gets_a_new_episode(
    robot, commander
):
    robot()
    dead = commander()
    dead.connect()
    dead.spin_until(lambda: dead.sets)
    dead.step(FIRST_NS)  # from now on it says nothing, as after kill -9
    two = commander()
    two.spin_until(lambda: two.sets)
    two.connect()
    assert two.step(max(two.sets)).episode == 1


def test_no_tick_is_executed_beyond_the_credits(robot, commander):
    robot(wait_for_credits=True)
    one = commander()
    credits = one.node.create_publisher(UInt64, 'credits', CREDITS_QOS)
    one.connect()
    one.spin_until(lambda: one.sets)
    one.command([0.0, 0.0], FIRST_NS)
    one.spin_until(lambda: 'credits' in one.diagnostics.get('waiting_for', ''))
    assert not one.outcomes
    credits.publish(UInt64(data=2))
    one.spin_until(lambda: one.outcomes)
    one.spin_until(lambda: FIRST_NS + PERIOD_NS in one.sets)
    one.step(FIRST_NS + PERIOD_NS)
    one.command([0.0, 0.0], FIRST_NS + 2 * PERIOD_NS)
    one.spin_until(lambda: 'credits beyond 2' in one.diagnostics.get('waiting_for', ''))
    assert [o.tick for o in one.outcomes] == [1, 2]


def test_at_wall_rate_it_keeps_its_period_holds_when_starved_and_marks_what_it_executed(
    robot, commander
):
    robot(pacing='wall')
    one = commander(pacing='wall')
    one.connect()
    one.spin_until(lambda: len(one.sets) >= 10)
    gaps_s = np.diff(sorted(one.sets))[1:] * 1e-9
    assert np.median(gaps_s) == pytest.approx(0.05, abs=0.005)
    assert not one.outcomes  # nothing is simulated before the first command
    before = one.sets[max(one.sets)]
    assert np.array_equal(before, one.sets[min(one.sets)])
    stamp_ns = max(one.sets) + PERIOD_NS // 2
    one.command([1.0, 0.0], stamp_ns)
    one.spin_until(lambda: one.outcomes)
    assert one.outcomes[0].stamp_ns == stamp_ns
    one.spin_until(lambda: int(one.diagnostics.get('starved', 0)) > 5)
    assert len(one.outcomes) == 1  # a tick that only held has no outcome
    # The time limit ends the episode although nobody commands; that is said.
    one.spin_until(lambda: len(one.outcomes) == 2)
    assert one.outcomes[1].truncated and one.outcomes[1].ended


def test_a_namespace_moves_every_topic(robot, commander):
    node_topics = ('joint_states', 'goal_pose', 'outcome')
    robot(namespace='cell')
    one = commander()

    def publishers(topic):
        return one.node.count_publishers(topic)

    one.spin_until(lambda: all(publishers(f'/cell/{topic}') for topic in node_topics))
    assert not any(publishers(f'/{topic}') for topic in node_topics)
    assert one.node.count_subscribers('/cell/twist_command') == 1
    ear = one.node.create_publisher(
        message_class('geometry_msgs/msg/TwistStamped'),
        '/cell/twist_command',
        command_qos('lockstep'),
    )
    one.spin_until(lambda: 'subscriber of /cell/' in one.diagnostics.get('waiting_for', ''))
    assert ear.topic_name == '/cell/twist_command'


@pytest.mark.parametrize(
    ('parameters', 'message'),
    [
        ({'robot': 'point_reech'}, 'point_reach'),
        ({'contract': 'point_reech'}, "did you mean 'point_reach'"),
        ({'contract': 'ur5e_cube'}, 'has no stream'),
        ({'pacing': 'warp'}, 'wanted one of: wall, lockstep'),
    ],
)
def test_a_wrong_parameter_is_one_line_and_status_2(parameters, message):
    command = node_command('gym_robot_node', {'robot': 'point_reach', **parameters})
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_at_once_with_status_0(robot, commander, number):
    process = robot(pacing='wall')
    one = commander(pacing='wall')
    one.spin_until(lambda: one.sets)
    began = time.monotonic()
    assert stop(process, number)[0] == 0
    assert time.monotonic() - began < 2.0


def test_the_light_robot_loads_no_simulator():
    code = (
        'import sys, qcfql_ros.nodes.gym_robot_node;'
        "found = {'ogbench', 'gymnasium', 'mujoco', 'rosbags', 'torch'} & set(sys.modules);"
        'sys.exit(str(found) if found else 0)'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
