# SPDX-License-Identifier: Apache-2.0
"""The table of all that reads what others wrote: name, callable, inputs, share.

A new decoder is one more line in the table of its kind. A callable takes one input and may return
anything; what it raises must be a QcfqlError.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from fuzz_inputs import (
    Dimension,
    Float64MultiArray,
    Layout,
    changed,
    damaged,
    damaged_text,
    float64_array,
    joints,
    mutated,
    stamped,
    trajectory,
)
from hypothesis import strategies as st
from mcap.writer import CompressionType, Writer
from rclpy.serialization import serialize_message
from std_msgs.msg import MultiArrayDimension, MultiArrayLayout

from qcfql_ros.algorithm.policy import ChunkPolicy
from qcfql_ros.algorithm.policy_info import BestOfN, PolicyInfo
from qcfql_ros.contract import find_contract, load_contract, topics
from qcfql_ros.contract.chunk_record import decode_chunk
from qcfql_ros.contract.decode import Decoder
from qcfql_ros.contract.decode_commands import decode_commands
from qcfql_ros.contract.load_features import SENSOR_FIELDS
from qcfql_ros.contract.message_types import message_class
from qcfql_ros.contract.named_vector import decode_outcome, decode_step
from qcfql_ros.contract.urdf import Urdf
from qcfql_ros.control.counters import Counters
from qcfql_ros.control.halt import HaltLatch
from qcfql_ros.control.planner import Planner
from qcfql_ros.data.bag_metadata import BagMetadata, Topic, read_metadata, type_definition
from qcfql_ros.data.cdr import CdrReader, peek_stamp_ns
from qcfql_ros.data.reader import bag_info, read_bag
from qcfql_ros.data.recovery import recover_bag
from qcfql_ros.nodes.policy_shelf import policy_digest
from qcfql_ros.nodes.weight_gate import WeightGate
from qcfql_ros.nodes.weights import WeightReceiver, read_header, split
from qcfql_ros.training.file_headers import read_policy_header, read_state_header


@dataclass(frozen=True)
class Target:
    """One decoder.

    Attributes:
        name: of the line in the table.
        call: takes one input.
        inputs: what it is given.
        share: of all inputs, relative to the others: small where one costs a file or two.
    """

    name: str
    call: Callable[[Any], Any]
    inputs: st.SearchStrategy[Any]
    share: float = 1.0


# One folder for all: inputs go through files that are written over.
FOLDER = Path(tempfile.mkdtemp(prefix='qcfql_fuzz_'))
POINT, CUBE = load_contract('point_reach'), load_contract('ur5e_cube')
JOINTS = [f'{name}_joint' for name in ('shoulder_pan', 'shoulder_lift', 'elbow')]
JOINTS += [f'wrist_{i}_joint' for i in (1, 2, 3)]
READER = CdrReader()

ABOUT = json.dumps(
    {
        'chunk': 3,
        'episode': 1,
        'seed': 5,
        'digest': 'ab' * 32,
        'policy_version': 2,
        'observation_stamps': {'joint_states': 10, 'goal': 10},
    }
)
OUTCOME = ['reward', 'terminated', 'truncated', 'success', 'episode', 'tick', 'ended']
META = ['episode', 'chunk', 'index', 'source', 'policy_version', 'clipped', 'lead_ns', 'lockstep']
STEP = ['action.vx', 'action.vy', *(f'meta.{name}' for name in META)]

PIXELS = b'\x01\x02\x03\x04'
LAYOUT = MultiArrayLayout(dim=[MultiArrayDimension(label='force', size=3, stride=3)])


def plain(kind: str, **fields: Any) -> bytes:
    """A message of any type in CDR."""
    return serialize_message(message_class(kind)(**fields))


# Valid messages by type, in CDR.
CORPUS: dict[str, list[bytes]] = {
    topics.JOINT_STATE: [
        joints(JOINTS, range(6), range(6)),
        joints(['x', 'y'], [0.1, 0.2], [0.3, 0.4]),
        joints(['y', 'x'], [0.1, 0.2], [0.3, 0.4], [0.5, 0.6]),
        joints(['gripper'], [0.5], [0.0], [0.1]),
        joints(OUTCOME, [-1.0, 0, 0, 0, 3, 17, 0]),
        joints(STEP, [0.1, 0.2, 0, 1, 2, 0, 4, 0, 0, 1]),
        joints([], frame=''),
    ],
    topics.POSE_STAMPED: [stamped(topics.POSE_STAMPED, [0.4, 0.1, 0.2, 0.0, 0.0, 0.0, 1.0])],
    topics.TWIST_STAMPED: [stamped(topics.TWIST_STAMPED, [0.1, 0.2, 0.0, 0.0, 0.0, 0.5])],
    topics.WRENCH_STAMPED: [stamped(topics.WRENCH_STAMPED, [1.0, 2.0, 3.0, 0.1, 0.2, 0.3])],
    topics.JOINT_TRAJECTORY: [
        trajectory(['vx', 'vy'], [[0.1, 0.2], [0.3, 0.4]], ABOUT),
        trajectory(JOINTS, [range(6)]),
        trajectory([], []),
    ],
    topics.FLOAT64_MULTI_ARRAY: [
        float64_array([0.1, 0.2]),
        float64_array([]),
        plain(topics.FLOAT64_MULTI_ARRAY, layout=LAYOUT, data=[0.1, 0.2, 0.3]),
    ],
    topics.FLOAT32_MULTI_ARRAY: [
        plain(topics.FLOAT32_MULTI_ARRAY, layout=LAYOUT, data=[0.1, 0.2, 0.3]),
        plain(topics.FLOAT32_MULTI_ARRAY),
    ],
    topics.FLOAT32: [plain(topics.FLOAT32, data=0.5)],
    topics.FLOAT64: [plain(topics.FLOAT64, data=0.5)],
    topics.INT32: [plain(topics.INT32, data=-3)],
    topics.BOOL: [plain(topics.BOOL, data=value) for value in (False, True)],
    topics.STRING: [plain(topics.STRING, data=text) for text in ('start 3', '', 'h\u00f6he')],
    topics.POSE: [plain(topics.POSE)],
    topics.TWIST: [plain(topics.TWIST)],
    topics.WRENCH: [plain(topics.WRENCH)],
    topics.IMU: [plain(topics.IMU)],
    topics.IMAGE: [plain(topics.IMAGE, height=2, width=2, encoding='mono8', step=2, data=PIXELS)],
    topics.COMPRESSED_IMAGE: [plain(topics.COMPRESSED_IMAGE, format='png', data=PIXELS)],
}
ALL_MESSAGES = [data for messages in CORPUS.values() for data in messages]


def of_type(kind: str) -> st.SearchStrategy[bytes]:
    """Bytes that were, or might be taken for, a message of `kind`."""
    return damaged(CORPUS[kind])


def objects(kind: str) -> st.SearchStrategy[Any]:
    """Messages as objects with what no serialised one can hold: wrong types and lengths."""
    return st.sampled_from([READER(data, kind) for data in CORPUS[kind]]).flatmap(changed)


joint_states, poses = objects(topics.JOINT_STATE), objects(topics.POSE_STAMPED)
twists, trajectories = objects(topics.TWIST_STAMPED), objects(topics.JOINT_TRAJECTORY)


def finite(result: Any) -> Any:
    """Hold the numbers of a decoded message to what is promised of them."""
    for name in ('action', 'actions', 'reward'):
        assert np.isfinite(getattr(result, name, 0.0)).all(), f'{name} of {result} is not finite'
    assert not isinstance(result, np.ndarray) or np.isfinite(result).all(), result
    return result


def arm_contract():
    """Return a contract that commands by trajectories and by arrays."""
    document = yaml.safe_load(find_contract('point_reach').read_text())
    fields = [{'field': 'position', 'name': name, 'action': name} for name in ('vx', 'vy')]
    document['action']['names'] = ['vx', 'vy', 'grip']
    document['action'].pop('hold')
    document['action']['commands'] = [
        {
            'topic': 'arm',
            'type': topics.JOINT_TRAJECTORY,
            'frame_id': 'base',
            'fields': [fields[0] | {'name': 'x'}, fields[1] | {'name': 'y'}],
        },
        {
            'topic': 'hand',
            'type': topics.FLOAT64_MULTI_ARRAY,
            'fields': [{'field': 'velocity', 'name': 'grip', 'action': 'grip'}],
        },
    ]
    document['safety'] = {'watchdog': {'timeout_s': 0.2}}
    path = FOLDER / 'arm.yaml'
    path.write_text(yaml.safe_dump(document))
    return load_contract(path)


ARM = arm_contract()
arm_trajectories = st.just(
    READER(trajectory(['x', 'y'], [[0.1, 0.2], [0.3, 0.4]]), topics.JOINT_TRAJECTORY)
).flatmap(changed)
arrays = st.just(Float64MultiArray(Layout([Dimension('grip', 1, 1)], 0), [0.5])).flatmap(changed)


def arm_commands(pair: tuple[Any, Any]) -> Any:
    """Decode a trajectory and an array."""
    return finite(decode_commands(ARM, dict(zip(('arm', 'hand'), pair, strict=True))))


def decoding(contract, stream: str, fresh: bool = False) -> Callable[[Any], Any]:
    """Decode objects of one stream; the decoder goes on, or is a new one each time."""
    decoder = Decoder(contract)

    def call(message: Any) -> Any:
        return finite((Decoder(contract) if fresh else decoder).decode_message(stream, message))

    return call


def decoding_cdr(contract, stream: str) -> Callable[[bytes], Any]:
    """Decode bytes of one stream."""
    decoder, reader = Decoder(contract), CdrReader()
    return lambda data: finite(decoder.decode_cdr(stream, data, reader))


def sensor_contract():
    """Return a contract with a stream of each sensor type, named after it."""
    document = yaml.safe_load(find_contract('point_reach').read_text())
    for kind, fields in SENSOR_FIELDS.items():
        name = kind.rpartition('/')[2]
        document['streams'][name] = {'topic': name.lower(), 'type': kind}
        for field in fields:
            entry: dict[str, Any] = {'stream': name, 'field': field}
            if kind in topics.ARRAY_TYPES:
                entry |= {'size': 3, 'index': [2, 0]}
            elif kind == topics.JOINT_STATE:
                entry |= {'names': ['x', 'y']}
            elif field == 'orientation':
                entry |= {'as': 'cos_sin_yaw'}
            document['features']['observation.state'].append(entry)
    path = FOLDER / 'sensors.yaml'
    path.write_text(yaml.safe_dump(document))
    return load_contract(path)


SENSORS = sensor_contract()


def sensing(stream: str, as_object: bool) -> Callable[[Any], Any]:
    """Decode one stream of `SENSORS`; what comes out is finite and has the contract's size."""
    size = sum(entry.size for entry in SENSORS.state if entry.stream == stream)
    decode = decoding(SENSORS, stream) if as_object else decoding_cdr(SENSORS, stream)

    def call(message: Any) -> Any:
        values = finite(decode(message).values)
        assert values.shape == (size,), f'shape {values.shape}, wanted {size}'

    return call


def commands(contract) -> Callable[[Any], Any]:
    """Decode one object as the message of every command topic."""
    topic_names = [command.topic for command in contract.action.commands]
    return lambda message: finite(decode_commands(contract, dict.fromkeys(topic_names, message)))


def commands_cdr(contract) -> Callable[[list[bytes]], Any]:
    """Decode bytes for each command topic in order."""
    wanted = contract.action.commands

    def call(parts: list[bytes]) -> Any:
        read = {c.topic: READER(data, c.type) for c, data in zip(wanted, parts, strict=True)}
        return finite(decode_commands(contract, read))

    return call


def command_parts(contract) -> st.SearchStrategy[list[bytes]]:
    """Bytes for each command topic."""
    return st.tuples(*(of_type(command.type) for command in contract.action.commands)).map(list)


MESSAGES = [
    Target('decode joint states', decoding(CUBE, 'joint_states'), joint_states),
    Target('decode gripper', decoding(CUBE, 'gripper', fresh=True), joint_states),
    Target('decode pose', decoding(CUBE, 'cube_pose'), poses),
    *(
        Target(f'decode_cdr {contract.name} {s.name}', decoding_cdr(contract, s.name), bytes_)
        for contract in (POINT, CUBE)
        for s in contract.streams.values()
        for bytes_ in [of_type(s.type)]
    ),
    *(
        Target(
            f'CdrReader {kind.rpartition("/")[2]}', partial(READER, type_name=kind), of_type(kind)
        )
        for kind in CORPUS
    ),
    *(
        Target(f'{what} of {stream.type}', sensing(stream.name, as_object), inputs, 0.5)
        for stream in SENSORS.streams.values()
        if stream.name not in POINT.streams
        for what, as_object, inputs in (
            ('object', True, objects(stream.type)),
            ('bytes', False, of_type(stream.type)),
        )
    ),
    Target(
        'CdrReader other type', partial(READER, type_name='a/b/C'), of_type(topics.POSE_STAMPED)
    ),
    Target('peek_stamp_ns', peek_stamp_ns, damaged(ALL_MESSAGES)),
    Target('decode_step', lambda m: finite(decode_step(m, POINT)), joint_states),
    Target('decode_outcome', decode_outcome, joint_states),
    Target('decode_chunk', lambda m: finite(decode_chunk(m, POINT)), trajectories),
    Target(
        'decode_step cdr',
        lambda data: finite(decode_step(READER(data, topics.JOINT_STATE), POINT)),
        of_type(topics.JOINT_STATE),
    ),
    Target(
        'decode_outcome cdr',
        lambda data: decode_outcome(READER(data, topics.JOINT_STATE)),
        of_type(topics.JOINT_STATE),
    ),
    Target(
        'decode_chunk cdr',
        lambda data: finite(decode_chunk(READER(data, topics.JOINT_TRAJECTORY), POINT)),
        of_type(topics.JOINT_TRAJECTORY),
    ),
    Target('decode_commands', commands(CUBE), twists | joint_states | trajectories),
    Target('decode_commands twist', commands(POINT), twists),
    Target('decode_commands cdr', commands_cdr(CUBE), command_parts(CUBE)),
    Target('decode_commands arm', arm_commands, st.tuples(arm_trajectories, arrays)),
]


# Files.


def through_file(name: str, read: Callable[[Path], Any], *, text: bool = False):
    """Write the input to a file of that name, then read it."""
    path = FOLDER / name
    path.parent.mkdir(parents=True, exist_ok=True)

    def call(content: Any) -> Any:
        path.write_bytes(content.encode('utf-8', 'surrogatepass') if text else content)
        return read(path)

    return call


def recording(compression: CompressionType, checksums: bool = True) -> bytes:
    """A short recording, as the bytes of its MCAP file."""
    path = FOLDER / 'corpus.mcap'
    with path.open('wb') as stream:
        writer = Writer(stream, chunk_size=400, compression=compression, enable_crcs=checksums)
        writer.start(profile='ros2', library='fuzz')
        writer.add_metadata('qcfql_ros', {'qcfql.contract': 'point_reach'})
        definition = type_definition(topics.JOINT_STATE)[0].encode()
        schema = writer.register_schema(topics.JOINT_STATE, 'ros2msg', definition)
        channel = writer.register_channel('/joint_states', 'cdr', schema)
        for i, data in enumerate(CORPUS[topics.JOINT_STATE] * 2):
            writer.add_message(channel, 1000 + i, data, 1000 + i)
        writer.finish()
    return path.read_bytes()


RECORDINGS = [
    recording(kind) for kind in (CompressionType.ZSTD, CompressionType.LZ4, CompressionType.NONE)
]
RECORDINGS += [recording(CompressionType.NONE, checksums=False)] * 2
RECORDINGS += [data[: len(data) // 2] for data in RECORDINGS]


def recover(data: bytes) -> Any:
    """Recover a folder with one file, then read what was made of it."""
    folder = FOLDER / 'torn'
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    (folder / 'torn_0.mcap').write_bytes(data)
    found = recover_bag(folder)
    if found is not None and found.files and (folder / 'torn_0.mcap').exists():
        kept = sum(1 for _ in read_bag(folder))
        assert kept == found.kept, f'{found.kept} messages kept, {kept} read again'
    return found


def metadata_text() -> str:
    """The metadata.yaml of a recording."""
    folder = FOLDER / 'metadata'
    folder.mkdir(exist_ok=True)
    metadata = BagMetadata({'/a': Topic('/a', topics.JOINT_STATE)}, custom={'k': 'v'})
    metadata.write(folder)
    return (folder / 'metadata.yaml').read_text()


METADATA = metadata_text()
METADATA_DOCUMENT = yaml.safe_load(METADATA)
CONTRACTS = [find_contract(name).read_text() for name in ('point_reach', 'ur5e_cube')]
CONTRACT_DOCUMENTS = st.sampled_from([yaml.safe_load(text) for text in CONTRACTS])
URDF = """<?xml version="1.0"?>
<robot name="arm">
  <link name="base"/>
  <joint name="lift" type="prismatic">
    <parent link="base"/>
    <child link="tool"/>
    <limit lower="-0.5" upper="1.5" velocity="2.0" effort="10"/>
    <safety_controller soft_lower_limit="-0.4" soft_upper_limit="1.4" k_velocity="1"/>
  </joint>
  <link name="tool"/>
</robot>
"""
WORDS = ['nan', '.inf', '1e999', '-1', '0', 'null', '[]', '{}', '~', '!!python/name:os.x', '&a']
WORDS += ['*a', '"', "'", ':', '- ', '{a: b', '<<: *a', '? ', '2026-01-01', '0x1f', 'true', '#']
WORDS += ['\t', '!!set {a}', '!!binary x', '!!timestamp x', '1:2:3', '!!int a', '\x00', '\ud800']

FILES = [
    Target('bag_info of MCAP', through_file('read.mcap', bag_info), mutated(RECORDINGS), 0.6),
    Target(
        'read_bag of MCAP',
        through_file('read.mcap', lambda path: [*read_bag(path)]),
        mutated(RECORDINGS, most=1),
        0.6,
    ),
    Target('recover_bag', recover, mutated(RECORDINGS), 0.2),
    Target(
        'metadata.yaml, text',
        through_file('meta/metadata.yaml', lambda p: read_metadata(p.parent), text=True),
        damaged_text([METADATA], WORDS),
        0.4,
    ),
    Target(
        'metadata.yaml, values',
        through_file('meta/metadata.yaml', lambda p: read_metadata(p.parent), text=True),
        changed(METADATA_DOCUMENT).map(yaml.dump),
        0.4,
    ),
    Target(
        'contract, text',
        through_file('contract.yaml', load_contract, text=True),
        damaged_text(CONTRACTS, WORDS),
        0.4,
    ),
    Target(
        'contract, values',
        through_file('contract.yaml', load_contract, text=True),
        CONTRACT_DOCUMENTS.flatmap(changed).map(yaml.dump),
        0.3,
    ),
    Target(
        'URDF',
        through_file('arm.urdf', lambda path: Urdf(path).limits('lift'), text=True),
        damaged_text([URDF], [*WORDS, '<', '>', '/>', '<joint name="lift">', '&lt;', '<!--']),
        0.4,
    ),
    Target(
        'halt latch', through_file('latch.json', HaltLatch), mutated([b'{"halted": true}']), 0.2
    ),
]


# Policies and weights.

INFO = PolicyInfo('c', POINT.hash, POINT.state_dim, POINT.action_dim, 2, (4, 4))
BEST = PolicyInfo(
    'c', POINT.hash, 6, 2, 2, (4,), best_of_n=BestOfN(2, 2, 2, True, 'min', 0.5), version=1
)
POLICIES = [ChunkPolicy.random(info).to_bytes() for info in (INFO, BEST)]
DESCRIPTIONS = [json.loads(info.to_json()) for info in (INFO, BEST)]
PARTS = [part for v, blob in enumerate(POLICIES) for part in split(blob, v, session=7)] + split(
    bytes(300_000), 3, session=8
)  # a transfer of two parts
RECEIVER = WeightReceiver()


def described(about: Any) -> bytes:
    """A policy file that says this about itself."""
    blob = POLICIES[0]
    size = int.from_bytes(blob[:8], 'little')
    head = json.loads(blob[8 : 8 + size])
    head['__metadata__']['qcfql'] = about if isinstance(about, str) else json.dumps(about)
    text = json.dumps(head).encode()
    return len(text).to_bytes(8, 'little') + text + blob[8 + size :]


def json_text(value: Any) -> str:
    """JSON, or what is as near to it as `value` goes."""
    return json.dumps(value, default=str, skipkeys=True)


descriptions = st.sampled_from(DESCRIPTIONS).flatmap(changed).map(json_text)


def receive(part: bytes) -> Any:
    """Feed one receiver that lives through all inputs; hold it to its bound."""
    try:
        return RECEIVER.receive(part)
    finally:
        held = sum(len(data) for parts in RECEIVER._open.values() for data in parts.values())
        assert len(RECEIVER._open) <= 2
        assert held < 2_000_000, f'{held} bytes held of unfinished transfers'


def gate() -> Callable[[bytes], Any]:
    """A gate that lives through all inputs; it may raise nothing at all, and log nothing."""
    planner = Planner(ChunkPolicy.random(INFO), 0, Counters())

    def surprised(text: str) -> None:
        raise AssertionError(f'the gate met what it does not know: {text}')

    made = WeightGate(POINT, planner, 'cpu', surprised)

    def call(part: bytes) -> Any:
        before = made.rejected
        made.take(part)
        return 'refused' if made.rejected > before else None

    return call


def whole(blob: bytes) -> bytes:
    """The one part of a small policy file, with a digest that fits."""
    return split(blob, 1, session=9)[0] if blob else b''


WEIGHTS = [
    Target('read_header', read_header, damaged(PARTS)),
    Target('WeightReceiver', receive, damaged(PARTS)),
    Target('WeightGate, parts', gate(), damaged(PARTS), 0.4),
    Target('WeightGate, policies', gate(), mutated(POLICIES).map(whole), 0.3),
    Target('ChunkPolicy.load', ChunkPolicy.load, damaged(POLICIES), 0.4),
    Target('ChunkPolicy.load, headers', ChunkPolicy.load, descriptions.map(described), 0.4),
    Target('PolicyInfo.from_json', PolicyInfo.from_json, descriptions | st.text(max_size=20), 0.7),
    Target('policy_digest', through_file('p.safetensors', policy_digest), mutated(POLICIES), 0.3),
    Target('policy header', through_file('p.st', read_policy_header), mutated(POLICIES), 0.3),
    Target('state header', through_file('s.st', read_state_header), mutated(POLICIES), 0.3),
]

TARGETS = [*MESSAGES, *FILES, *WEIGHTS]
