# SPDX-License-Identifier: Apache-2.0
"""Policy files: whatever is in one, it loads as what was saved or a ModelError says why not."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcfql_ros.algorithm import policy as policy_file
from qcfql_ros.algorithm.config import AlgorithmConfig
from qcfql_ros.algorithm.policy import ChunkPolicy
from qcfql_ros.algorithm.policy_info import BestOfN, PolicyInfo
from qcfql_ros.errors import ModelError, ParameterError
from qcfql_ros.training.checkpoint import TrainingState

INFO = PolicyInfo('c', 'h', 3, 2, 4, (8, 8))
POLICY = ChunkPolicy.random(INFO, seed=1)
BLOB = POLICY.to_bytes()
BEST_OF_N = {'num_action_samples': 8, 'flow_steps': 3, 'num_critics': 2, 'pessimism': 0.5}
BEST_OF_N |= {'critic_layer_norm': True, 'critic_aggregation': 'min'}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


def parted(blob):
    """Return the header as Python values, and the bytes of the tensors."""
    length = int.from_bytes(blob[:8], 'little')
    return json.loads(blob[8 : 8 + length]), blob[8 + length :]


def joined(header, data):
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, 'little') + text + data


def described(**changes):
    """Return the file with another description of itself."""
    header, data = parted(BLOB)
    info = json.loads(header['__metadata__']['qcfql']) | changes
    header['__metadata__']['qcfql'] = json.dumps(info)
    return joined(header, data)


def loads_the_same_or_is_refused(blob):
    try:
        loaded = ChunkPolicy.load(blob)
    except ModelError:
        return
    assert loaded.digest == POLICY.digest


@pytest.mark.parametrize('header', [[], None, 7, 'x', {'__metadata__': []}, {'a': 1}])
def test_a_header_of_another_kind_is_refused(header):
    with pytest.raises(ModelError):
        ChunkPolicy.load(joined(header, b''))


@given(header=JSON, data=st.binary(max_size=16))
@settings(max_examples=150, deadline=None)
def test_a_header_of_any_shape_is_refused(header, data):
    with pytest.raises(ModelError):
        ChunkPolicy.load(joined(header, data))


@given(name=st.sampled_from(sorted(parted(BLOB)[0])), value=JSON)
@settings(max_examples=150, deadline=None)
def test_any_entry_of_the_header_may_be_anything(name, value):
    header, data = parted(BLOB)
    header[name] = value
    loads_the_same_or_is_refused(joined(header, data))


@given(name=st.sampled_from(sorted(INFO.__dataclass_fields__)), value=JSON)
@settings(max_examples=150, deadline=None)
def test_any_field_of_the_description_may_be_anything(name, value):
    loads_the_same_or_is_refused(described(**{name: value}))


@given(description=JSON)
@settings(max_examples=100, deadline=None)
def test_the_description_may_be_any_json(description):
    with pytest.raises(ModelError):
        PolicyInfo.from_json(json.dumps(description))


@given(at=st.integers(0, len(BLOB) - 1), flip=st.integers(1, 255), cut=st.booleans())
@settings(max_examples=200, deadline=None)
def test_a_flipped_or_missing_byte_is_harmless(at, flip, cut):
    damaged = BLOB[:at] if cut else BLOB[:at] + bytes([BLOB[at] ^ flip]) + BLOB[at + 1 :]
    loads_the_same_or_is_refused(damaged)


@pytest.mark.parametrize('text', ['[' * 100_000, '{"a":' * 100_000, '9' * 10_000])
def test_deep_and_long_headers_are_refused(text):
    blob = len(text).to_bytes(8, 'little') + text.encode()
    with pytest.raises(ModelError, match='not a readable safetensors file'):
        ChunkPolicy.load(blob)
    with pytest.raises(ModelError, match='description'):
        PolicyInfo.from_json(text)


@pytest.mark.parametrize(
    'changes',
    [
        {'hidden_dims': [65536, 65536]},
        {'hidden_dims': [8]},
        {'hidden_dims': []},
        {'hidden_dims': [1] * 1000},
        {'state_dim': 65536},
        {'action_chunk_size': 65536, 'action_dim': 65536},
        {'state_dim': True},
        {'hidden_dims': [float('inf'), 8]},
        {'version': -1},
        {'version': 2**64},
    ],
)
def test_no_network_is_made_for_sizes_that_the_file_does_not_hold(monkeypatch, changes):
    def made(*shape):
        pytest.fail(f'a network of {shape} was made')

    monkeypatch.setattr(policy_file, 'make_actor', made)
    with pytest.raises(ModelError):
        ChunkPolicy.load(described(**changes))


def test_tensors_of_another_type_are_refused_by_name():
    tensors = {name: t.to(torch.float64) for name, t in POLICY._tensors().items()}
    metadata = parted(BLOB)[0]['__metadata__']
    blob = policy_file.save_tensors(tensors, metadata)
    with pytest.raises(ModelError, match=r"tensor 'normalizer\.mean' is F64"):
        ChunkPolicy.load(blob)


def test_what_was_saved_comes_back():
    again = ChunkPolicy.load(BLOB)
    assert again.info == INFO
    observation = np.arange(3, dtype=np.float32)
    assert np.array_equal(again.plan(observation, 5), POLICY.plan(observation, 5))


def test_a_best_of_n_policy_comes_back_and_plans_what_its_critics_think_best():
    config = AlgorithmConfig(3, 2, 4, hidden_dims=(8, 8), num_critics=2, actor='best_of_n')
    policy = TrainingState.start(config, 'c', 'h', seed=3).policy()
    again = ChunkPolicy.load(policy.to_bytes())
    assert again.info == policy.info
    assert again.info.best_of_n == BestOfN(32, 10, 2, True, 'min', 0.5)
    observation = np.arange(3, dtype=np.float32)
    chunk = again.plan(observation, 5)
    assert np.array_equal(chunk, policy.plan(observation, 5))
    state, actor = torch.from_numpy(observation)[None], again.network
    samples = actor.behavior.sample(state.expand(32, -1), noise=again.noise(5)[0])
    values = actor.critic.values(state.expand(32, -1), samples).amin(0)
    assert np.allclose(chunk, samples[values.argmax()], atol=1e-6)
    assert float(values.std()) > 0


@pytest.mark.parametrize(
    'changes',
    [
        {'num_action_samples': 0},
        {'num_action_samples': 10**9},
        {'num_critics': 3},
        {'critic_aggregation': 'max'},
        {'pessimism': None},
        {'pessimism': -0.5},
        {'pessimism': 10**400},
        {'pessimism': float('nan')},
        {'num_action_samples': 4096, 'flow_steps': 4096},
        {'critic_layer_norm': 1},
        {'flow_steps': 2.5},
        {'surprise': 1},
    ],
)
def test_a_best_of_n_description_that_does_not_fit_is_refused(changes):
    policy = ChunkPolicy.random(
        PolicyInfo('c', 'h', 3, 2, 4, (8,), best_of_n=BestOfN(**BEST_OF_N))
    )
    header, data = parted(policy.to_bytes())
    info = json.loads(header['__metadata__']['qcfql'])
    info['best_of_n'] |= changes
    header['__metadata__']['qcfql'] = json.dumps(info)
    with pytest.raises(ModelError):
        ChunkPolicy.load(joined(header, data))


def test_the_digest_covers_what_is_done_with_the_tensors():
    about = PolicyInfo('c', 'h', 3, 2, 4, (8,), best_of_n=BestOfN(**BEST_OF_N))
    policy = ChunkPolicy.random(about)
    other = PolicyInfo('c', 'h', 3, 2, 4, (8,), best_of_n=BestOfN(**BEST_OF_N | {'flow_steps': 4}))
    assert ChunkPolicy(policy.network, policy.normalizer, other).digest != policy.digest
    header, data = parted(policy.to_bytes())
    header['__metadata__']['qcfql'] = other.to_json()
    with pytest.raises(ModelError, match='digest'):
        ChunkPolicy.load(joined(header, data))


@pytest.mark.parametrize('changes', [{'num_action_samples': 4096, 'num_critics': 4096}, {}])
def test_a_plan_beyond_any_robots_memory_or_time_is_refused_by_its_description(changes):
    many = BEST_OF_N | {'num_action_samples': 4096, 'flow_steps': 2000} | changes
    info = PolicyInfo('c', 'h', 3, 2, 4, (64, 64), best_of_n=BestOfN(**many))
    with pytest.raises(ModelError, match='take a lower num_action_samples'):
        PolicyInfo.from_json(info.to_json())


def test_a_distilled_policy_says_nothing_of_best_of_n():
    assert 'best_of_n' not in json.loads(INFO.to_json())


def test_noise_can_be_scaled_down_to_its_mean():
    observation = np.arange(3, dtype=np.float32)
    assert np.array_equal(
        POLICY.plan(observation, 5, noise_scale=1.0), POLICY.plan(observation, 5)
    )
    mean = POLICY.plan(observation, 5, noise_scale=0.0)
    assert np.array_equal(mean, POLICY.plan(observation, 6, noise_scale=0.0))
    state = torch.from_numpy(observation)[None]
    assert np.array_equal(mean, POLICY.network(state, torch.zeros(1, 4, 2)).clamp(-1, 1)[0])
    half = POLICY.plan(observation, 5, noise_scale=0.5)
    wanted = POLICY.network(state, 0.5 * POLICY.noise(5)).clamp(-1, 1)[0]
    assert np.array_equal(half, wanted) and not np.array_equal(half, mean)


def test_a_best_of_n_policy_draws_as_many_candidates_as_it_is_told():
    about = PolicyInfo('c', 'h', 3, 2, 4, (8,), best_of_n=BestOfN(**BEST_OF_N))
    policy = ChunkPolicy.random(about)
    observation = np.arange(3, dtype=np.float32)
    assert np.array_equal(policy.plan(observation, 5, 1.0, 8), policy.plan(observation, 5))
    one = policy.plan(observation, 5, 1.0, 1)
    state = torch.from_numpy(observation)[None]
    wanted = policy.network.behavior.sample(state, noise=policy.noise(5, 1)[0])[0]
    assert np.array_equal(one, wanted)


def test_candidates_are_refused_where_there_are_none_or_too_many():
    observation = np.zeros(3, dtype=np.float32)
    with pytest.raises(ParameterError, match=r'num_action_samples is 4, but policy .* wanted 0'):
        POLICY.plan(observation, 5, num_samples=4)
    slow = BEST_OF_N | {'flow_steps': 4096}
    about = PolicyInfo('c', 'h', 3, 2, 4, (64, 64), best_of_n=BestOfN(**slow))
    with pytest.raises(ParameterError, match=r'num_action_samples is 1024: .*more than'):
        ChunkPolicy.random(about).check_samples(1024)


def test_a_thread_plans_with_the_number_of_threads_that_the_process_was_told():
    info = PolicyInfo('c', 'h', 28, 5, 5, (256, 256, 256))
    policy, observation = ChunkPolicy.random(info), np.linspace(-1, 1, 28, dtype=np.float32)
    before, planned = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            wanted = policy.plan(observation, 5)
            thread = threading.Thread(target=lambda: planned.append(policy.plan(observation, 5)))
            thread.start()
            thread.join()
            assert np.array_equal(planned[-1], wanted)
    finally:
        torch.set_num_threads(before)
