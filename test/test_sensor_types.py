# SPDX-License-Identifier: Apache-2.0
"""Every sensor type: what a contract may say of it, its numbers, and its place in time."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from geometry_msgs.msg import Pose, Twist, Wrench
from rclpy.serialization import serialize_message
from recorded_ticks import PERIOD, Ticks, state
from sensor_msgs.msg import CompressedImage, Image, Imu
from std_msgs.msg import Bool, Float32, Float32MultiArray, Float64, Float64MultiArray, Int32

from qcfql_ros.contract import find_contract, load_contract, topics
from qcfql_ros.contract.decode import Decoder, stamp_of
from qcfql_ros.contract.load_features import SENSOR_FIELDS
from qcfql_ros.contract.message_types import message_class
from qcfql_ros.control.latest import LatestMessages, Sample
from qcfql_ros.data.assembler import Assembler
from qcfql_ros.data.bag_types import type_hash
from qcfql_ros.data.cdr import CdrReader
from qcfql_ros.data.reader import BagReader, read_bag
from qcfql_ros.data.recorded_chunks import ChunkObservations
from qcfql_ros.data.recorder import BagRecorder
from qcfql_ros.data.steps import SegmentEnd, Step
from qcfql_ros.errors import BagError, ContractError, MessageError
from qcfql_ros.nodes.policy_setup import set_up

S0 = 1_700_000_000_000_000_000
MS = 1_000_000


@pytest.fixture
def with_sensor(tmp_path):
    """Return a function that adds a stream `extra` and its entries to point_reach."""

    def add(kind: str, *entries: dict, images: dict | None = None):
        document = yaml.safe_load(find_contract('point_reach').read_text())
        document['streams']['extra'] = {'topic': 'extra', 'type': kind}
        document['features']['observation.state'] += [{'stream': 'extra'} | e for e in entries]
        document['features'] |= images or {}
        path = tmp_path / 'extra.yaml'
        path.write_text(yaml.safe_dump(document))
        return load_contract(path)

    return add


def imu(**covariances) -> Imu:
    message = Imu()
    message.orientation.w, message.orientation.z = math.cos(0.3), math.sin(0.3)
    message.angular_velocity.x, message.angular_velocity.z = 1.0, 3.0
    message.linear_acceleration.y, message.linear_acceleration.z = -2.0, 9.81
    for field, first in covariances.items():
        getattr(message, f'{field}_covariance')[0] = first
    return message


def filled(kind, **parts):
    """Return a message with the numbers of its parts, in their order."""
    message = kind()
    for name, numbers in parts.items():
        part = getattr(message, name)
        for axis, number in zip('xyzw', numbers, strict=False):
            setattr(part, axis, number)
    return message


CASES = [
    (topics.FLOAT32, Float32(data=0.125), [{'field': 'data', 'scale': 2.0}], [0.25]),
    (topics.FLOAT64, Float64(data=0.1), [{'field': 'data', 'offset': 1.0}], [1.1]),
    (topics.BOOL, Bool(data=True), [{'field': 'data'}], [1.0]),
    (topics.BOOL, Bool(data=False), [{'field': 'data', 'offset': 0.5}], [0.5]),
    (topics.INT32, Int32(data=-7), [{'field': 'data'}, {'field': 'data', 'scale': 2}], [-7, -14]),
    (
        topics.FLOAT64_MULTI_ARRAY,
        Float64MultiArray(data=[1.0, 2.0, 3.0]),
        [{'field': 'data', 'names': ['a', 'b', 'c']}],
        [1, 2, 3],
    ),
    (
        topics.FLOAT32_MULTI_ARRAY,
        Float32MultiArray(data=[1.0, 2.0, 3.0, math.nan]),
        [
            {'field': 'data', 'size': 4, 'index': [2, 0], 'scale': [1.0, 10.0]},
            {'field': 'data', 'size': 4, 'index': [1], 'names': ['force']},
        ],
        [3, 10, 2],
    ),
    (
        topics.POSE,
        filled(Pose, position=[1.0, 2.0, 3.0], orientation=[0.0, 0.0, 0.6, 0.8]),
        [
            {'field': 'position', 'names': ['z', 'x']},
            {'field': 'orientation', 'as': 'wxyz'},
        ],
        [3, 1, 0.8, 0, 0, 0.6],
    ),
    (
        topics.TWIST,
        filled(Twist, linear=[1.0, 2.0, 3.0], angular=[4.0, 5.0, 6.0]),
        [{'field': 'angular'}, {'field': 'linear', 'names': ['y']}],
        [4, 5, 6, 2],
    ),
    (
        topics.WRENCH,
        filled(Wrench, force=[1.0, 2.0, 3.0], torque=[4.0, 5.0, 6.0]),
        [{'field': 'force'}, {'field': 'torque', 'names': ['z']}],
        [1, 2, 3, 6],
    ),
    (
        topics.IMU,
        imu(),
        [
            {'field': 'orientation', 'as': 'cos_sin_yaw'},
            {'field': 'angular_velocity', 'names': ['x', 'z']},
            {'field': 'linear_acceleration'},
        ],
        [math.cos(0.6), math.sin(0.6), 1, 3, 0, -2, 9.81],
    ),
]


@pytest.mark.parametrize(('kind', 'message', 'entries', 'wanted'), CASES)
def test_a_sensor_gives_its_numbers_live_and_from_bytes(
    with_sensor, kind, message, entries, wanted
):
    contract = with_sensor(kind, *entries)
    assert contract.state_dim == len(contract.state_names) == 6 + len(wanted)
    assert len(set(contract.state_names)) == 6 + len(wanted) or kind == topics.INT32
    decoder, stamped = Decoder(contract), contract.streams['extra'].stamped
    live = decoder.decode_message('extra', message)
    assert live.values == pytest.approx(wanted, abs=1e-12)
    read = decoder.decode_cdr('extra', serialize_message(message), CdrReader())
    assert read.values.tobytes() == live.values.tobytes()
    assert read.stamp_ns == live.stamp_ns == stamp_of(message) == 0
    assert stamped == (kind == topics.IMU)


ARRAY = topics.FLOAT64_MULTI_ARRAY
NAMED = {'field': 'data', 'names': ['a', 'b']}


@pytest.mark.parametrize(
    ('kind', 'entry', 'message', 'wanted'),
    [
        (topics.FLOAT32, {'field': 'data'}, Float32(data=math.nan), "data of 'value' is nan"),
        (ARRAY, NAMED, Float64MultiArray(data=[1.0]), 'data has 1 numbers, wanted 2'),
        (ARRAY, NAMED, Float64MultiArray(data=[1.0, math.inf]), "data of 'b' is inf"),
        (topics.IMU, {'field': 'orientation'}, imu(orientation=-1.0), 'orientation: its covar'),
        (topics.POSE, {'field': 'orientation'}, filled(Pose, orientation=[1.0] * 4), 'norm 2'),
    ],
)
def test_a_sensor_that_does_not_fit_is_refused_with_its_topic(
    with_sensor, kind, entry, message, wanted
):
    decoder = Decoder(with_sensor(kind, entry))
    with pytest.raises(MessageError, match=f"topic 'extra': .*{wanted}"):
        decoder.decode_message('extra', message)
    with pytest.raises(MessageError, match=f"topic 'extra': .*{wanted}"):
        decoder.decode_cdr('extra', serialize_message(message), CdrReader())


def test_an_array_that_begins_elsewhere_is_refused(with_sensor):
    message = Float64MultiArray(data=[1.0, 2.0])
    message.layout.data_offset = 1
    with pytest.raises(MessageError, match='data_offset is 1, wanted 0'):
        Decoder(with_sensor(ARRAY, NAMED)).decode_message('extra', message)


def test_what_an_imu_does_not_measure_may_go_unread(with_sensor):
    decoder = Decoder(with_sensor(topics.IMU, {'field': 'angular_velocity'}))
    values = decoder.decode_message('extra', imu(orientation=-1.0)).values
    assert values.tolist() == [1.0, 0.0, 3.0]


@pytest.mark.parametrize(
    ('kind', 'entries', 'wanted'),
    [
        (ARRAY, [{'field': 'data'}], r'state\[3\]\.size: got None, wanted how many numbers'),
        (ARRAY, [{'field': 'data', 'index': [0]}], 'size: got None, wanted how many numbers'),
        (ARRAY, [{'field': 'data', 'size': 2, 'index': [2]}], 'wanted whole numbers from 0 to 1'),
        (ARRAY, [{'field': 'data', 'size': 2, 'index': [1, 1]}], 'numbers that are all different'),
        (ARRAY, [{'field': 'data', 'size': 2.0}], 'size: got 2.0, wanted whole numbers'),
        (ARRAY, [{'field': 'data', 'size': 3, 'names': ['a']}], 'wanted 3 names, one for each'),
        (ARRAY, [NAMED, {'field': 'data', 'size': 3}], r'state\[4\]\.size: got 3, wanted 2'),
        (ARRAY, [{'field': 'position'}], "got 'position', wanted one of data"),
        (topics.FLOAT32, [{'field': 'data', 'names': ['a']}], 'is one number'),
        (topics.FLOAT32, [{'field': 'data', 'size': 1}], 'is no array'),
        (topics.POSE, [{'field': 'position', 'index': [0]}], 'is no array'),
        (topics.POSE, [{'field': 'linear'}], 'wanted one of position, orientation'),
        (topics.IMU, [{'field': 'angular_velocity', 'as': 'xyzw'}], 'only an orientation has it'),
        (topics.STRING, [{'field': 'data'}], "streams.extra.type: got 'std_msgs/msg/String'"),
    ],
)
def test_an_entry_that_makes_no_sense_is_refused(with_sensor, kind, entries, wanted):
    with pytest.raises(ContractError, match=wanted):
        with_sensor(kind, *entries)


def test_where_the_numbers_of_an_array_lie_is_in_the_hash(with_sensor):
    entry = {'field': 'data', 'names': ['a', 'b']}
    same = [with_sensor(ARRAY, entry), with_sensor(ARRAY, entry | {'size': 2, 'index': [0, 1]})]
    other = [with_sensor(ARRAY, entry | {'size': n, 'index': [1, 0]}) for n in (2, 3)]
    assert same[0].hash == same[1].hash
    assert len({contract.hash for contract in same + other}) == 3


def wall(contract, extra_after_ns=0, announced=None, count=3):
    """Return events, counters and messages of a run at wall rate.

    Number i of `extra` is received so long after a quarter period before tick i. Each tick is a
    chunk of its own, which announces the stamps that are given beside those of the other streams.
    """
    ticks = Ticks(lockstep=False)
    moments = []
    for i in range(count + 2):
        at = S0 + i * PERIOD
        moments += [(at - PERIOD // 2, 'sensors', i)]
        moments += [(at - PERIOD // 4 + extra_after_ns, 'extra', i)]
        if i < count:
            moments += [(at, 'step', i), (at + PERIOD // 3, 'outcome', i)]
    for at, what, i in sorted(moments):
        ticks.now_ns = at
        if what == 'sensors':
            ticks.sensors(at, float(i))
        elif what == 'extra':
            ticks.add('/extra', serialize_message(Float64(data=float(i))))
        elif what == 'step':
            if announced is not None:
                before = dict.fromkeys(('joint_states', 'goal'), at - PERIOD // 2)
                ticks.chunk(at, i, before | announced)
            ticks.step(at, chunk=-1 if announced is None else i)
        else:
            ticks.outcome(at - PERIOD // 3)
    assembler = Assembler(contract)
    events = [e for message in ticks.log for e in assembler.push(*message)]
    return events + assembler.finish(), assembler.counters, ticks


@pytest.fixture
def gripper(with_sensor):
    return with_sensor(topics.FLOAT64, {'field': 'data'})


@pytest.mark.parametrize('late', [False, True])
def test_a_message_without_a_header_counts_from_when_it_was_received(gripper, late):
    # The log receives every message 1 ms after the moment that is asked for.
    events, _, _ = wall(gripper, PERIOD // 4 - MS + late)
    steps = [event for event in events if isinstance(event, Step)]
    first = 1 if late else 0
    assert [step.observation[-1] for step in steps] == [i - late for i in range(first, 3)]
    assert all((s.observation[:6] == state(i)).all() for i, s in enumerate(steps, first))
    assert isinstance(events[-1], SegmentEnd)


def test_its_announced_stamp_is_0_and_not_compared_but_those_of_others_are(gripper):
    events, counters, _ = wall(gripper, announced={'extra': 0})
    steps = [event for event in events if isinstance(event, Step)]
    assert [step.planned is not None for step in steps] == [True] * 3
    assert not counters['dropped_observation_mismatch']
    for wrong in ({'extra': 0, 'goal': S0 - 1}, {'extra': S0}, {}):
        events, counters, _ = wall(gripper, announced=wrong)
        assert counters['dropped_observation_mismatch'] == 3, wrong


def test_a_bad_message_without_a_header_takes_its_place_by_when_it_was_received(gripper):
    _, _, ticks = wall(gripper)
    places = [i for i, message in enumerate(ticks.log) if message[0] == '/extra']
    topic, receive_ns, _ = ticks.log[places[1]]
    ticks.log[places[1]] = (topic, receive_ns, serialize_message(Float64(data=math.nan)))
    assembler = Assembler(gripper)
    events = [e for message in ticks.log for e in assembler.push(*message)] + assembler.finish()
    steps = [event for event in events if isinstance(event, Step)]
    assert [(step.stamp_ns - S0) // PERIOD for step in steps] == [2]
    assert assembler.counters['bad_message'] == 1
    assert assembler.counters['dropped_bad_observation'] == 1


def test_a_chunk_from_a_message_without_a_stamp_cannot_be_computed_again(gripper):
    _, _, ticks = wall(gripper, announced={'extra': 0})
    observations = ChunkObservations(gripper)
    chunks = [c for message in ticks.log for c in observations.push(*message)]
    chunks += observations.finish()
    assert len(chunks) == 3
    assert all(c.observation is None and "stream 'extra'" in c.missing for c in chunks)


def test_what_is_announced_of_a_message_without_a_stamp_is_0(gripper):
    latest = LatestMessages(gripper)
    latest.put('joint_states', Sample(10, 1, np.zeros(4)))
    latest.put('goal', Sample(11, 2, np.zeros(2)))
    latest.put('extra', Sample(12, 3, np.ones(1), stamped=False))
    state_row, stamps = latest.observe(12)
    assert stamps == {'joint_states': 10, 'goal': 11, 'extra': 0}
    assert state_row[-1] == 1.0
    with pytest.raises(MessageError, match="'extra': no message stamped at or before 11"):
        latest.observe(11)


def test_lockstep_refuses_what_has_no_stamp(gripper):
    load_contract('ur5e_cube').require_stamps()
    parameters = SimpleNamespace(
        contract=gripper.file, model='none', device='cpu', threads=1, pacing='lockstep'
    )
    with pytest.raises(
        ContractError, match=r'streams\.extra\.type: std_msgs/msg/Float64 has no h'
    ):
        set_up(parameters, '', None, print, None)


def test_images_are_recorded_as_they_came_and_read_as_views_of_the_bytes(with_sensor, tmp_path):
    contract = with_sensor(
        topics.FLOAT64,
        {'field': 'data'},
        images={
            'observation.images.wrist': {'topic': 'wrist', 'type': topics.IMAGE},
            'observation.images.front': {'topic': 'front', 'type': topics.COMPRESSED_IMAGE},
        },
    )
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    picture = Image(height=4, width=5, encoding='rgb8', step=15, data=pixels.tobytes())
    encoded = CompressedImage(format='jpeg', data=b'\xff\xd8\xff\xe0 not a picture \xff\xd9')
    picture.header.stamp.sec = encoded.header.stamp.sec = 7
    sent = {'/wrist': serialize_message(picture), '/front': serialize_message(encoded)}
    recorder = BagRecorder(
        tmp_path / 'bag',
        contract.recorded_topics(''),
        contract_name=contract.name,
        contract_hash=contract.hash,
    )
    for i, (topic, data) in enumerate(sent.items()):
        recorder.write(topic, S0 + i, S0 + i, data)
    recorder.close()
    kept = {topic: data for topic, _, data in read_bag(tmp_path / 'bag', tuple(sent))}
    assert kept == sent
    ours = CdrReader()(kept['/wrist'], topics.IMAGE)
    assert (ours.height, ours.width, ours.encoding, ours.step) == (4, 5, 'rgb8', 15)
    assert isinstance(ours.data, memoryview) and ours.data.obj is kept['/wrist']
    assert (np.frombuffer(ours.data, np.uint8).reshape(4, 5, 3) == pixels).all()
    front = CdrReader()(kept['/front'], topics.COMPRESSED_IMAGE)
    assert front.format == 'jpeg' and bytes(front.data) == bytes(encoded.data)
    with pytest.raises(ContractError, match='images is not supported'):
        contract.require_no_images_for_training()
    assert json.dumps(contract.recorded_topics('')).count('Image') == 2


PAGE = (Path(__file__).resolve().parent.parent / 'docs' / 'contract.md').read_text()


def test_the_page_names_every_sensor_type_and_its_fields():
    table = PAGE[PAGE.index('| sensor type |') :].partition('\n\n')[0].splitlines()
    for kind, fields in SENSOR_FIELDS.items():
        package, _, name = kind.rpartition('/')
        named = re.compile(rf'`({package}|\.\.\.)/{name}`')
        (line,) = (x for x in table if f'`{package}/' in x and named.search(x))
        assert all(f'`{field}`' in line for field in fields), line
        assert ('header' in line) or kind in topics.UNSTAMPED


def test_the_array_entries_of_the_page_are_a_contract(tmp_path):
    (text,) = re.findall(r'^```yaml\n(- \{stream: gripper.*?)^```$', PAGE, re.M | re.S)
    document = yaml.safe_load(find_contract('point_reach').read_text())
    kinds = {'gripper': topics.FLOAT64, 'tactile': topics.FLOAT32_MULTI_ARRAY, 'fingers': ARRAY}
    document['streams'] |= {name: {'topic': name, 'type': kinds[name]} for name in kinds}
    document['features']['observation.state'] += yaml.safe_load(text)
    path = tmp_path / 'page.yaml'
    path.write_text(yaml.safe_dump(document))
    assert load_contract(path).state_names[6:] == (
        'gripper.data',
        'tactile.data.0',
        'tactile.data.5',
        'tactile.data.10',
        'fingers.data.left',
        'fingers.data.right',
    )


def test_every_type_is_recorded_and_read_again_with_its_own_definition(tmp_path):
    kinds = [kind for kind in vars(topics).values() if isinstance(kind, str) and '/msg/' in kind]
    wanted = {f'/{kind.rpartition("/")[2].lower()}': kind for kind in kinds}
    sent = {topic: serialize_message(message_class(kind)()) for topic, kind in wanted.items()}
    recorder = BagRecorder(tmp_path / 'bag', wanted, contract_name='c', contract_hash='h')
    for i, (topic, data) in enumerate(sent.items()):
        recorder.write(topic, S0 + i, S0 + i, data)
    recorder.close()
    reader = BagReader(tmp_path / 'bag', wanted)  # holds types and fields against ours
    assert {topic: data for topic, _, _, data in reader} == sent
    assert len({type_hash(channel) for channel in reader.channels().values()}) == len(kinds)
    for topic, kind in wanted.items():
        other = topics.INT32 if kind != topics.INT32 else topics.BOOL
        with pytest.raises(BagError, match=f'topic {topic} has the type {kind}, want {other}'):
            list(BagReader(tmp_path / 'bag', {topic: other}))
