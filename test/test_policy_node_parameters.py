# SPDX-License-Identifier: Apache-2.0
"""Parameters that change while the policy drives: when they take effect, and what is refused."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import rclpy
from policy_scene import CONTRACT, K, Scene, make_policy
from rclpy.parameter import Parameter

from qcfql_ros.contract.chunk_record import decode_chunk
from qcfql_ros.control.planner import chunk_seed
from qcfql_ros.errors import ParameterError
from qcfql_ros.nodes.ros_parameters import declare_parameters

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location('reference', ROOT / 'tools' / 'write_reference.py')
reference = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reference)


def put(it, **values):
    """Set each parameter by itself; return (successful, reason) of the last."""
    requests = [Parameter(name, value=value) for name, value in values.items()]
    result = it.policy.set_parameters(requests)[-1]
    return result.successful, result.reason


def chunks(it):
    return [decode_chunk(message, CONTRACT) for message in it.robot.chunks]


def test_scaled_noise_is_planned_from_the_next_chunk_on_and_said_in_it(scene):
    it = scene()
    it.drive(2)
    assert put(it, noise_scale=0) == (True, '')  # a whole number, as the command line sends it
    it.drive(9)
    it.until(lambda: len(it.robot.chunks) == 3, 'the third chunk')
    made, policy = chunks(it), make_policy()
    assert [chunk.noise_scale for chunk in made] == [1.0, 0.0, 0.0]
    seen = np.array([0.01 * 4, 0.5, 0.0, 0.0, 1.0, 0.0], np.float32)
    wanted = policy.plan(seen, chunk_seed(7, 0, 1), noise_scale=0.0)
    np.testing.assert_array_equal(made[1].actions, wanted)
    assert it.policy.get_parameter('noise_scale').value == 0.0


@pytest.mark.parametrize(
    ('name', 'value', 'reason'),
    [
        ('threads', 2, 'read-only'),
        ('execution_horizon', 2, 'read-only'),
        ('noise_scale', 2.5, 'out of range'),
        ('noise_scale', 'much', 'Wrong parameter type'),
        ('limits_scale', 0.0, 'out of range'),
        ('on_late', 'wait', 'wanted one of: an empty text, hold, repeat'),
        ('num_action_samples', 4, 'has no candidates to choose from; wanted 0'),
    ],
)
def test_what_is_refused_says_why_and_changes_nothing(scene, name, value, reason):
    it = scene()
    before = it.policy.get_parameter(name).value
    successful, said = put(it, **{name: value})
    assert not successful and reason in said
    assert it.policy.get_parameter(name).value == before
    assert getattr(it.policy._values, name) == before


def test_several_set_at_once_are_taken_or_refused_together(scene):
    it = scene()
    wrong = [Parameter('noise_scale', value=0.5), Parameter('num_action_samples', value=4)]
    assert not it.policy.set_parameters_atomically(wrong).successful
    assert it.policy._tuning.wanted.noise_scale == 1.0
    right = [Parameter('noise_scale', value=0.5), Parameter('on_late', value='repeat')]
    assert it.policy.set_parameters_atomically(right).successful
    wanted = it.policy._tuning.wanted
    assert (wanted.noise_scale, wanted.on_late) == (0.5, 'repeat')


def test_the_execution_horizon_plays_so_many_rows_and_no_more_than_are_planned(scene, tmp_path):
    it = scene(execution_horizon=2)
    it.drive(5)
    assert [(s.chunk, s.index) for s in it.steps()[:5]] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]
    it.close()
    with pytest.raises(
        ParameterError, match=f'execution_horizon is {K + 1}, but the policy plans'
    ):
        Scene(tmp_path, execution_horizon=K + 1)


def test_a_lead_longer_than_a_chunk_is_refused_at_wall_pacing(tmp_path):
    with pytest.raises(ParameterError, match=r'lead_s is 0\.5, but a chunk is played for 0\.2 s'):
        Scene(tmp_path, pacing='wall', lead_s=0.5)


def test_descriptors_say_range_unit_and_effect(scene):
    policy = scene().policy
    lead = policy.describe_parameter('lead_s')
    bounds = lead.floating_point_range[0]
    assert (bounds.from_value, bounds.to_value) == (0.0, 1.0)
    assert lead.description.endswith('[s]') and not lead.read_only
    assert lead.additional_constraints == 'takes effect: next episode'
    threads = policy.describe_parameter('threads')
    assert threads.read_only
    assert (threads.integer_range[0].from_value, threads.integer_range[0].to_value) == (1, 256)
    assert (
        "one of: '', hold, repeat" in policy.describe_parameter('on_late').additional_constraints
    )


@pytest.mark.parametrize('node', reference.NODES)
def test_a_parameter_file_is_what_the_declarations_say_and_reaches_its_node(node, tmp_path):
    name, table = reference.NODES[node]
    file = ROOT / 'config' / f'{node}.params.yaml'
    text = file.read_text()
    assert text == reference.parameter_file(node)
    changed = tmp_path / file.name
    changed.write_text(text.replace('contract: ""', 'contract: "mine"'))
    for path, contract in ((file, ''), (changed, 'mine')):
        rclpy.init(args=['--ros-args', '--params-file', str(path)])
        try:
            made = rclpy.create_node(name, namespace='/some/robot')
            values = declare_parameters(made, table)
            made.destroy_node()
        finally:
            rclpy.try_shutdown()
        wanted = {p.key: p.default for p in table} | {'contract': contract}
        assert vars(values) == wanted


def test_the_policy_node_itself_takes_a_parameter_file(tmp_path):
    file = tmp_path / 'mine.params.yaml'
    text = (ROOT / 'config' / 'policy_node.params.yaml').read_text()
    file.write_text(text.replace('noise_scale: 1.0', 'noise_scale: 0.25'))
    it = Scene(tmp_path, params_file=file)
    try:
        assert it.policy._tuning.wanted.noise_scale == 0.25
    finally:
        it.close()
