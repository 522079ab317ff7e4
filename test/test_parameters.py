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
    'policy_node': (POLICY_NODE, ('policy_*.py', 'driving.py')),
    'learner_node': (LEARNER_NODE, ('learner_*.py', 'recording.py')),
    'gym_robot_node': (ROBOT_NODE, ('gym_robot_node.py',)),
    'watchdog_node': (WATCHDOG_NODE, ('watchdog_node.py',)),
}


def unread(table, patterns):
    """Return the names of `table` that no syntax tree of these files has as attribute or text."""
    read = set()
    for path in (path for pattern in patterns for path in NODES.glob(pattern)):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                read.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                read.add(node.value)
    return [parameter.name for parameter in table if parameter.name not in read]


@pytest.mark.parametrize('node', TABLES)
def test_a_knob_that_nothing_reads_is_found(node: str) -> None:
    table, patterns = TABLES[node]
    assert unread(table, patterns) == []
    fake = Parameter('knob_of_nobody', float, 1.0, 'Nothing.')
    assert unread((*table, fake), patterns) == ['knob_of_nobody']


@pytest.mark.parametrize('table', [table for table, _ in TABLES.values()], ids=TABLES)
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
