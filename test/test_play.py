# SPDX-License-Identifier: Apache-2.0
"""qcfql play into a learner that takes its time from /clock, as real processes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import rclpy
from mcap.writer import Writer as McapWriter
from rclpy.executors import SingleThreadedExecutor
from recorded_ticks import CONTRACT, PERIOD, STORE, Ticks
from rosgraph_msgs.msg import Clock
from test_learner_node import Processes, logged, reread, stop

from qcfql_ros.cli.main import main
from qcfql_ros.cli.play import move
from qcfql_ros.contract import load_contract
from qcfql_ros.contract.message_types import message_class
from qcfql_ros.data.bag_file import Channel
from qcfql_ros.data.dataset import load_dataset
from qcfql_ros.data.playback import fingerprint, latched_depth
from qcfql_ros.data.reader import BagReader, bag_custom_data
from qcfql_ros.data.recorder import BagRecorder
from qcfql_ros.data.session_mark import SESSION_TYPE, session_mark, session_topic
from qcfql_ros.data.steps import Step, step_digest
from qcfql_ros.nodes.qos import RECORD_QOS
from qcfql_ros.nodes.recording import REPLAYED_FROM

TOPICS = CONTRACT.recorded_topics()


@pytest.fixture
def processes():
    with Processes() as stack:
        yield stack


def practice(episodes: int, count: int = 40) -> Ticks:
    """Ticks in lockstep, a chunk planned every fourth, one message a millisecond."""
    made = Ticks()
    stamp = made.now_ns
    for episode in range(episodes):
        made.sensors(stamp, 0.0)
        for index in range(count):
            number, place = divmod(index, 4)
            if place == 0:
                made.chunk(stamp, number)
            made.step(stamp, (index / 100, -0.5), episode=episode, chunk=number, index=place)
            ended = {'terminated': True, 'success': True} if index == count - 1 else {}
            made.outcome(stamp, **ended)
            stamp += PERIOD
            made.sensors(stamp, float(index))
        made.robot_episode += 1
        stamp += PERIOD
    return made


def bag_of(log, folder, namespace: str = '', contract=CONTRACT, contract_hash: str = ''):
    """Write messages to a bag as our own recorder does, session mark included."""
    prefix = f'/{namespace}' if namespace else ''
    topics = {f'{prefix}{topic}': kind for topic, kind in contract.recorded_topics().items()}
    recorder = BagRecorder(
        folder,
        {**topics, session_topic(namespace): SESSION_TYPE},
        contract_name=CONTRACT.name,
        contract_hash=contract_hash or contract.hash,
        namespace=namespace,
    )
    begun_ns = log[0][1] - 5
    recorder.write(session_topic(namespace), begun_ns, 0, session_mark('', '', begun_ns))
    for topic, receive_ns, data in log:
        recorder.write(f'{prefix}{topic}', receive_ns, receive_ns - 1000, data)
    recorder.close()
    return folder


def policy_file(folder, digest: str) -> bytes:
    """Write what begins as a policy file does; return its content."""
    head = json.dumps({'__metadata__': {'digest': digest}}).encode()
    folder.mkdir(exist_ok=True)
    path = folder / f'{digest}.safetensors'
    path.write_bytes(len(head).to_bytes(8, 'little') + head)
    return path.read_bytes()


def play(bag, *arguments, timeout=60) -> subprocess.CompletedProcess:
    command = [sys.executable, '-m', 'qcfql_ros.cli', 'play', str(bag), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout)


def messages(bag) -> list:
    """Everything in a bag but session marks: topic, receive and publish stamp, bytes."""
    return [tuple(m) for m in BagReader(bag) if not m.topic.endswith('learner/session')]


def steps_of(bag, contract=CONTRACT) -> list[str]:
    return [step_digest(e) for e in load_dataset(bag, contract) if isinstance(e, Step)]


def log_of(run) -> str:
    return (run.parent / f'{run.name}.log').read_text()


@pytest.mark.parametrize('rate', [1, 5, 0])
def test_a_learner_makes_the_steps_of_the_file_at_any_rate(tmp_path, processes, rate):
    bag = bag_of(practice(10 if rate == 1 else 40).log, tmp_path / 'bag')
    policies = {digest: policy_file(tmp_path / 'policies', digest) for digest in ('d' * 64, 'e')}
    run = tmp_path / 'run'
    learner = processes.learner(run, use_sim_time='true')
    report = tmp_path / 'report.json'
    done = play(bag, '--rate', rate, '--wait-for-subscribers', '--json', report)
    assert done.returncode == 0, done.stderr
    assert stop(learner) == 0
    # The recording is the same to the last byte, and so are its steps.
    assert messages(run / 'bag') == messages(bag)
    assert [row[2] for row in logged(run)] == steps_of(bag) and len(steps_of(bag)) >= 400
    assert logged(run) == reread(run)
    told = json.loads(report.read_text())
    assert told['taken'] == len(messages(bag)) and told['learners'] == 1
    if rate:
        assert told['seconds'] >= 0.99 * told['bag_s'] / rate - 0.1
    (source,) = json.loads(bag_custom_data(run / 'bag')[REPLAYED_FROM])
    assert source == {
        'bag': str(bag),
        'contract_hash': CONTRACT.hash,
        'fingerprint': fingerprint(BagReader(bag).paths),
    }
    assert 'WARN' not in log_of(run)
    (kept,) = (run / 'policies').iterdir()
    assert kept.read_bytes() == policies['d' * 64], 'of the policy that drove, not of the other'


def test_the_scripted_expert_played_twice_gives_its_steps_twice(tmp_path, processes):
    bag = tmp_path / 'demos'
    record = ['record-demos', '--robot', 'point_reach', '--steps', '250', '--out', str(bag)]
    subprocess.run([sys.executable, '-m', 'qcfql_ros.cli', *record], check=True, timeout=120)
    run = tmp_path / 'run'
    learner = processes.learner(run, use_sim_time='true')
    for _ in range(2):
        done = play(bag, '--rate', 0, '--wait-for-subscribers')
        assert done.returncode == 0, done.stderr
    assert stop(learner) == 0
    once = steps_of(bag)
    assert len(once) == 250
    assert [row[2] for row in logged(run)] == 2 * once
    assert logged(run) == reread(run), 'time that jumps back cuts there for every reader'


def test_an_interrupted_player_leaves_what_it_played_and_the_next_one_goes_on(
    tmp_path, processes, wait_until
):
    bag = bag_of(practice(30).log, tmp_path / 'bag')
    run = tmp_path / 'run'
    learner = processes.learner(run, use_sim_time='true')
    command = ['-m', 'qcfql_ros.cli', 'play', str(bag), '--wait-for-subscribers']
    player = processes.start(*command, stdout=subprocess.PIPE)
    wait_until(
        lambda: (run / 'steps.csv').exists() and len(logged(run)) > 20, 30, 'the first steps'
    )
    player.send_signal(signal.SIGINT)
    assert player.wait(20) == 130
    assert play(bag, '--duration', 0.5, '--rate', 0).returncode == 0
    assert stop(learner) == 0
    whole, found = messages(bag), messages(run / 'bag')
    first = next(m for m in range(1, len(found)) if found[m][1] < found[m - 1][1])
    assert found[:first] == whole[:first] and first > 100
    begun_ns = whole[0][1] - 5
    assert found[first:] == [m for m in whole if m[1] < begun_ns + 500_000_000]
    assert 'broke off' not in log_of(run)


def test_a_robot_in_a_namespace_is_played_to_another(tmp_path, processes):
    bag = bag_of(practice(3).log, tmp_path / 'bag', namespace='left/arm')
    run = tmp_path / 'run'
    options = ['contract:=point_reach', f'run_dir:={run}', 'pacing:=lockstep', 'learn:=false']
    options = [word for one in [*options, 'use_sim_time:=true'] for word in ('-p', one)]
    command = ['-m', 'qcfql_ros.nodes.learner_node', '--ros-args', '-r', '__ns:=/right', *options]
    learner = processes.start(*command)
    done = play(bag, '--rate', 0, '--namespace', 'right', '--wait-for-subscribers')
    assert done.returncode == 0, done.stderr
    assert stop(learner) == 0
    assert [row[2] for row in logged(run)] == steps_of(bag)
    assert {m[0] for m in messages(run / 'bag')} <= {f'/right{topic}' for topic in TOPICS}


def at_wall_rate(count: int, pose: bool) -> list:
    """Ticks of a robot on the wall clock; its goal with a stamp, or as a bare Pose."""
    made = Ticks(lockstep=False, lead_ns=5_000_000)
    start_ns = made.now_ns
    kind = 'geometry_msgs/msg/PoseStamped'
    for index in range(count + 1):
        made.now_ns = start_ns + index * PERIOD
        made.sensors(made.now_ns - 7_000_000, float(index))
        if pose:
            topic, at, data = made.log[-1]
            bare = STORE.deserialize_cdr(data, kind).pose
            made.log[-1] = (topic, at, bytes(STORE.serialize_cdr(bare, bare.__msgtype__)))
        if index < count:
            made.step(start_ns + index * PERIOD + 10_000_000, (index / 100, 0.5))
            made.outcome(start_ns + index * PERIOD + 10_000_000)
    return made.log


@pytest.mark.parametrize('pose', [False, True])
def test_at_wall_rate_a_stream_without_stamps_is_warned_of(tmp_path, processes, pose):
    path = tmp_path / 'contract.yaml'
    text = Path(CONTRACT.file).read_text()
    path.write_text(text.replace('PoseStamped', 'Pose') if pose else text)
    contract = load_contract(path)
    run = tmp_path / 'run'
    settings = {'pacing': 'wall', 'contract': path, 'use_sim_time': 'true'}
    learner = processes.learner(run, **settings)
    log = at_wall_rate(100, pose)
    bag = bag_of(log, tmp_path / 'bag', contract=contract)
    done = play(bag, '--rate', 0, '--wait-for-subscribers')
    assert done.returncode == 0, done.stderr
    assert stop(learner) == 0
    assert messages(run / 'bag') == messages(bag)
    assert [row[2] for row in logged(run)] == steps_of(bag, contract)
    assert len(steps_of(bag, contract)) > 90
    warned = '/goal_pose has no stamps' in log_of(run)
    assert warned == pose
    assert ('read its file: qcfql train --dataset_path' in log_of(run)) == pose


def test_others_hear_every_message_and_on_clock_the_stamp_of_each(tmp_path, processes):
    bag = bag_of(practice(3).log, tmp_path / 'bag')
    wanted = messages(bag)
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node('listener', context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    heard: dict[str, list] = {topic: [] for topic in TOPICS}
    clock: list[int] = []
    try:
        for topic, kind in TOPICS.items():
            listener = heard[topic].append
            node.create_subscription(message_class(kind), topic, listener, RECORD_QOS, raw=True)
        node.create_subscription(
            Clock,
            '/clock',
            lambda now: clock.append(now.clock.sec * 10**9 + now.clock.nanosec),
            RECORD_QOS,
        )
        command = ['-m', 'qcfql_ros.cli', 'play', str(bag), '--rate', '2']
        command += ['--wait-for-subscribers', '--topics', *TOPICS]
        player = processes.start(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        until_s = time.monotonic() + 60
        while len(clock) < len(wanted) or sum(map(len, heard.values())) < len(wanted):
            assert time.monotonic() < until_s, player.poll()
            executor.spin_once(timeout_sec=0.1)
        assert player.wait(20) == 0, player.stderr.read()
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown(context=context)
    for topic, contents in heard.items():
        assert contents == [m[3] for m in wanted if m[0] == topic]
    stamps = [m[1] for m in wanted]
    assert set(stamps) <= set(clock) and clock == sorted(clock)
    assert (clock[0], clock[-1]) == (stamps[0], stamps[-1])
    assert player.stdout.read().startswith(
        f'played {len(wanted)} messages of {len(TOPICS)} topics'
    )


def test_a_recording_that_is_played_by_others_is_warned_of_and_keeps_the_time_of_clock(
    tmp_path, processes, wait_until
):
    run = tmp_path / 'run'
    learner = processes.learner(run, use_sim_time='true')
    log = practice(1).log
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node('some_player', context=context)
    try:
        out = {
            topic: node.create_publisher(message_class(kind), topic, RECORD_QOS)
            for topic, kind in TOPICS.items()
        }
        clock = node.create_publisher(Clock, '/clock', 10)
        stamps = [at for _, at, _ in log]
        wait_until(
            lambda: (
                clock.get_subscription_count()
                and all(one.get_subscription_count() for one in out.values())
            ),
            20,
            'the learner',
        )

        def heard() -> bool:
            for topic, receive_ns, data in log:
                now = Clock()
                now.clock.sec, now.clock.nanosec = divmod(receive_ns, 10**9)
                clock.publish(now)
                out[topic].publish(data)
                time.sleep(0.001)
            return 'did not announce' in log_of(run)

        wait_until(heard, 20, 'the warning')
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)
    assert stop(learner) == 0
    assert 'read its file: qcfql train --dataset_path' in log_of(run)
    last = messages(run / 'bag')[-1]
    assert min(stamps) <= last[1] <= max(stamps) + 10**6 < time.time_ns()


@pytest.mark.parametrize(
    ('settings', 'contract_hash', 'says'),
    [
        ({}, CONTRACT.hash, 'use_sim_time:=true'),
        ({'use_sim_time': 'true'}, '0' * 64, 'was recorded under contract 000000000000'),
    ],
    ids=['system time', 'another contract'],
)
def test_a_learner_that_takes_no_part_ends_the_player_before_it_begins(
    tmp_path, processes, settings, contract_hash, says
):
    run = tmp_path / 'run'
    learner = processes.learner(run, **settings)
    bag = bag_of(practice(1).log, tmp_path / 'bag', contract_hash=contract_hash)
    done = play(bag, '--wait-for-subscribers')
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert says in line
    assert stop(learner) == 0
    assert not [*(run / 'bag').glob('*.mcap')] or messages(run / 'bag') == []


@pytest.mark.parametrize(
    ('words', 'says'),
    [
        (['/nowhere'], '/nowhere'),
        (['BAG', '--rate', '-1'], '--rate is -1'),
        (['BAG', '--start', '-1'], '--start is -1'),
        (['BAG', '--duration', '0'], '--duration is 0'),
        (['BAG', '--topics', '/outcme'], "did you mean '/outcome'?"),
    ],
)
def test_bad_arguments_are_one_line(tmp_path, capsys, words, says):
    bag = bag_of(practice(1, 3).log, tmp_path / 'bag')
    assert main(['play', *(str(bag) if word == 'BAG' else word for word in words)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line


@pytest.mark.parametrize('kind', ['std_msgs/String', '/msg/String', 'no_such_msgs/msg/String'])
def test_a_topic_whose_type_is_none_of_ros_is_left_out_or_refused_in_one_line(
    tmp_path, capsys, kind
):
    bag = tmp_path / 'bag.mcap'
    with bag.open('wb') as file:
        writer = McapWriter(file)
        writer.start()
        schema = writer.register_schema(kind, 'ros2msg', b'string data')
        writer.add_message(writer.register_channel('/t', 'cdr', schema), 1, bytes(9), 1)
        writer.finish()
    assert main(['play', str(bag), '--topics', '/t']) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f'{kind!r} is n' in line
    assert main(['play', str(bag)]) == 2
    said, line = capsys.readouterr().err.splitlines()
    assert said.startswith('qcfql play: /t is not played: ')
    assert 'no topic that can be played' in line


@pytest.mark.parametrize(
    ('topic', 'was', 'namespace', 'wanted'),
    [
        ('/a/b', '', '', '/a/b'),
        ('/a/b', '', 'n', '/n/a/b'),
        ('/n/a', 'n', 'm/k', '/m/k/a'),
        ('/n/a', 'n', '', '/a'),
        ('/nn/a', 'n', 'm', '/m/nn/a'),
    ],
)
def test_topics_move_with_the_namespace(topic, was, namespace, wanted):
    assert move(topic, was, namespace) == wanted


@pytest.mark.parametrize(
    ('offers', 'depth'),
    [
        ('', 0),
        ('nonsense: [', 0),
        ('- {durability: volatile, depth: 5}', 0),
        ('- {durability: transient_local, depth: 0}', 1),
        ('- {durability: transient_local, depth: 3}\n- {durability: volatile, depth: 9}', 0),
        ('- {durability: 1, depth: 3}\n- {durability: 1, depth: 9}', 9),
    ],
)
def test_a_topic_is_latched_where_all_offered_that(offers, depth):
    channel = Channel('/t', 'std_msgs/msg/String', b'', '', {'offered_qos_profiles': offers})
    assert latched_depth(channel) == depth
