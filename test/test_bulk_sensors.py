# SPDX-License-Identifier: Apache-2.0
"""Columns of every sensor type against the decoder for one message, good and bad ones mixed."""

from __future__ import annotations

import random

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from rclpy.serialization import serialize_message
from std_msgs.msg import MultiArrayDimension

from qcfql_ros.contract import find_contract, load_contract, topics
from qcfql_ros.contract.decode import Decoder
from qcfql_ros.contract.load_features import SENSOR_FIELDS
from qcfql_ros.contract.message_types import message_class
from qcfql_ros.data.alike import lay_out
from qcfql_ros.data.bulk_decode import StreamDecoder
from qcfql_ros.data.cdr import CdrReader
from qcfql_ros.errors import MessageError

ODD = (float('nan'), float('inf'), 1e308, 0.0, -1.0)


@pytest.fixture(scope='module')
def sensors(tmp_path_factory):
    """A contract with a stream of each sensor type, named after it."""
    document = yaml.safe_load(find_contract('point_reach').read_text())
    for kind, fields in SENSOR_FIELDS.items():
        name = kind.rpartition('/')[2]
        document['streams'][name] = {'topic': name.lower(), 'type': kind}
        for field in fields:
            entry = {'stream': name, 'field': field, 'scale': 3.0, 'offset': 0.1}
            if kind in topics.ARRAY_TYPES:
                entry |= {'size': 3, 'index': [2, 0]}
            elif kind == topics.JOINT_STATE:
                entry |= {'names': ['x', 'y']}
            elif field == 'orientation':
                entry |= {'as': 'cos_sin_yaw'}
            document['features']['observation.state'].append(entry)
    path = tmp_path_factory.mktemp('sensors') / 'sensors.yaml'
    path.write_text(yaml.safe_dump(document))
    return load_contract(path)


def message(kind: str, chance: random.Random, odd: float):
    """Return a message of random numbers, some of them odd with probability `odd`."""

    def number() -> float:
        return chance.choice(ODD) if chance.random() < odd else chance.gauss(0.0, 1.0)

    made = message_class(kind)()
    if hasattr(made, 'header'):
        made.header.stamp.sec, made.header.frame_id = chance.randrange(2**31), 'base'
    if kind == topics.JOINT_STATE:
        made.name = ['y', 'spare', 'x'] if chance.random() > odd else ['y', 'z']
        made.position, made.velocity, made.effort = ([number() for _ in made.name] for _ in '123')
    elif kind in topics.ARRAY_TYPES:
        made.data = [np.float32(number()).item() for _ in range(3 if chance.random() > odd else 2)]
        if chance.random() < 0.2:
            made.layout.dim = [MultiArrayDimension(label='ab', size=3, stride=3)]
        made.layout.data_offset = int(chance.random() < odd)
    elif kind in topics.NUMBER_TYPES:
        made.data = {
            topics.BOOL: lambda: chance.random() < 0.5,
            topics.INT32: lambda: chance.randrange(-(2**31), 2**31),
        }.get(kind, lambda: np.float32(number()).item())()
    else:
        body = next(
            (getattr(made, n) for n in ('pose', 'twist', 'wrench') if hasattr(made, n)), made
        )
        for field, axes in SENSOR_FIELDS[kind].items():
            numbers = [number() for _ in axes]
            if field == 'orientation' and chance.random() > odd:
                numbers = (np.array(numbers) / np.linalg.norm(numbers)).tolist()
            for axis, value in zip(axes, numbers, strict=True):
                setattr(getattr(body, field), axis, value)
            if kind == topics.IMU and chance.random() < odd:
                getattr(made, f'{field}_covariance')[0] = -1.0
    return made


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Return a message with one byte changed, or cut short."""
    at = chance.randrange(len(data))
    if chance.random() < 0.2:
        return data[:at]
    return data[:at] + bytes([data[at] ^ chance.randrange(1, 256)]) + data[at + 1 :]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(SENSOR_FIELDS)), st.integers(0), st.sampled_from([0.0, 0.02, 0.3]))
@pytest.mark.filterwarnings('ignore::RuntimeWarning')  # sums of numbers that are too large
def test_columns_are_what_the_decoder_for_one_message_gives(sensors, kind, seed, odd):
    chance = random.Random(seed)
    data = [serialize_message(message(kind, chance, odd)) for _ in range(40)]
    data = [damaged(x, chance) if chance.random() < odd else x for x in data]
    name = kind.rpartition('/')[2]
    decoder, read = Decoder(sensors), CdrReader()
    columns = StreamDecoder(sensors, name, decoder, read)(data)
    for i, one in enumerate(data):
        try:
            wanted = decoder.decode_cdr(name, one, CdrReader())
        except MessageError:
            assert not columns.good[i]
            continue
        assert columns.good[i]
        assert columns.stamp_ns[i] == wanted.stamp_ns
        assert columns.values[i].tobytes() == wanted.values.tobytes()


@pytest.mark.parametrize('kind', sorted(SENSOR_FIELDS))
def test_messages_that_are_as_they_should_be_are_columns(kind):
    chance = random.Random(1)
    data = [serialize_message(message(kind, chance, 0.0)) for _ in range(40)]
    _, single = lay_out(data, kind, CdrReader())
    assert not single
