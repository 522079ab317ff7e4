# SPDX-License-Identifier: Apache-2.0
"""The policy node at wall rate with a sensor that has no stamp, and the steps of its recording."""

from __future__ import annotations

import time
from functools import partial

import rclpy
import yaml
from rclpy.executors import SingleThreadedExecutor
from std_msgs.msg import Float64

from qcfql_ros.algorithm.policy import ChunkPolicy, PolicyInfo
from qcfql_ros.contract import find_contract, load_contract
from qcfql_ros.contract.chunk_record import decode_chunk
from qcfql_ros.contract.message_types import message_class
from qcfql_ros.contract.topics import CHUNK_TOPIC, FLOAT64, JOINT_TRAJECTORY, absolute
from qcfql_ros.data.assembler import Assembler
from qcfql_ros.data.cdr import CdrReader
from qcfql_ros.data.steps import Step
from qcfql_ros.nodes.gym_robot_node import GymRobotNode
from qcfql_ros.nodes.policy_node import PolicyNode
from qcfql_ros.nodes.process import Stop
from qcfql_ros.nodes.qos import RECORD_QOS, sensor_qos

CHUNKS = 6
LEAD_NS = 10_000_000  # as the node has it


def contract_with_gripper(path):
    """Return point_reach with one more sensor, a number without a header."""
    document = yaml.safe_load(find_contract('point_reach').read_text())
    document['streams']['gripper'] = {'topic': 'gripper', 'type': FLOAT64}
    document['features']['observation.state'].append({'stream': 'gripper', 'field': 'data'})
    path.write_text(yaml.safe_dump(document))
    return load_contract(path)


def test_a_sensor_without_a_stamp_is_driven_with_and_its_chunks_are_learned_from(tmp_path):
    contract = contract_with_gripper(tmp_path / 'gripper.yaml')
    info = PolicyInfo(contract.name, contract.hash, contract.state_dim, contract.action_dim, 4)
    file = tmp_path / 'policy.safetensors'
    file.write_bytes(ChunkPolicy.random(info).to_bytes())
    settings = ('robot:=point_reach', f'policy:contract:={contract.file}', f'model:={file}')
    settings += ('pacing:=wall', f'state_dir:={tmp_path}')
    assembler, events, chunks = Assembler(contract), [], []
    begun_ns = time.time_ns()

    def since_begin() -> Float64:
        return Float64(data=(time.time_ns() - begun_ns) * 1e-9)

    def hear(topic: str, data: bytes) -> None:
        events.extend(assembler.push(topic, time.time_ns(), data))
        if topic == absolute(CHUNK_TOPIC):
            chunks.append(decode_chunk(CdrReader()(data, JOINT_TRAJECTORY), contract))

    def learned() -> list[Step]:
        steps = [event for event in events if isinstance(event, Step)]
        return [step for step in steps if step.planned is not None]

    rclpy.init(args=['--ros-args', *(word for s in settings for word in ('-p', s))])
    executor, nodes = SingleThreadedExecutor(), []
    try:
        ear = rclpy.create_node('ear')
        nodes.append(ear)
        best_effort = {absolute(stream.topic) for stream in contract.streams.values()}
        for topic, kind in contract.recorded_topics('').items():
            ear.create_subscription(
                message_class(kind),
                topic,
                partial(hear, topic),
                sensor_qos('wall') if topic in best_effort else RECORD_QOS,
                raw=True,
            )
        gripper = ear.create_publisher(Float64, 'gripper', sensor_qos('wall'))
        ear.create_timer(0.01, lambda: gripper.publish(since_begin()))
        nodes += [GymRobotNode(Stop()), PolicyNode(Stop())]
        for node in nodes:
            executor.add_node(node)
        deadline = time.monotonic() + 60
        # On a busy machine the ticks of an episode may lie so that a sensor that was stamped in
        # time comes too late to be seen; that is refused, and the next one is another matter.
        while len(learned()) < CHUNKS:
            assert time.monotonic() < deadline, assembler.counters
            executor.spin_once(timeout_sec=0.05)
    finally:
        for node in nodes:
            if hasattr(node, 'close'):
                node.close()
        executor.shutdown()
        for node in nodes:
            node.destroy_node()
        rclpy.try_shutdown()
    assert {chunk.observation_stamps['gripper'] for chunk in chunks} == {0}
    assert all(chunk.observation_stamps['goal'] > 0 for chunk in chunks)

    # The number says when it was sent: never after the observation was taken.
    for step in learned():
        taken_s = (step.stamp_ns - LEAD_NS - begun_ns) * 1e-9
        assert 0.0 < float(step.observation[-1]) <= taken_s + 1e-4
