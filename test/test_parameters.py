# SPDX-License-Identifier: Apache-2.0
"""Every setting is declared once, checked, and read by its node."""

import ast
from pathlib import Path

import pytest

from qcfql_ros.errors import ParameterError
from qcfql_ros.parameters import (
    LEARNER_NODE,
    POLICY_NODE,
    ROBOT_NODE,
    WATCHDOG_NODE,
    Parameter,
    check_values,
)

NODES = Path(__file__).parents[1] / 'qcfql_ros' / 'nodes'
TABLES = {
    'policy_node.py': POLICY_NODE,
    'learner_node.py': LEARNER_NODE,
    'gym_robot_node.py': ROBOT_NODE,
    'watchdog_node.py': WATCHDOG_NODE,
}


@pytest.mark.parametrize('file', TABLES)
def test_a_knob_that_nothing_reads_does_not_exist(file: str) -> None:
    files = [NODES / file, NODES / file.replace('_node', '_setup')]
    trees = [ast.walk(ast.parse(path.read_text())) for path in files if path.exists()]
    read = {node.attr for tree in trees for node in tree if isinstance(node, ast.Attribute)}
    assert [p.name for p in TABLES[file] if p.name not in read] == []


@pytest.mark.parametrize('table', TABLES.values(), ids=TABLES)
def test_defaults_pass_their_own_check_and_an_unknown_name_is_named(table) -> None:
    assert set(check_values(table, {})) == {parameter.name for parameter in table}
    with pytest.raises(
        ParameterError, match="unknown parameter 'contrct'; did you mean 'contract'"
    ):
        check_values(table, {'contrct': ''})


@pytest.mark.parametrize('value', [-0.1, 1.1, float('nan'), '0.5', True, None])
def test_a_number_out_of_range_or_of_another_type_is_refused(value) -> None:
    knob = Parameter('share', float, 0.5, 'Of something.', low=0.0, high=1.0)
    assert knob.check(1) == 1.0
    with pytest.raises(ParameterError, match='parameter share is'):
        knob.check(value)
