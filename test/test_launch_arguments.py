# SPDX-License-Identifier: Apache-2.0
"""Launch arguments: unknown names and wrong values are refused, which ros2 launch does not do."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from qcfql_ros.contract import find_contract, load_contract
from qcfql_ros.errors import ParameterError
from qcfql_ros.nodes.launching import (
    ROBOT_ARGUMENTS,
    SIM_ARGUMENTS,
    check_arguments,
    needs_watchdog,
    run_folder,
)

LAUNCH = Path(__file__).resolve().parent.parent / 'launch'


def texts(**changes):
    def text(value):
        return str(value).lower() if isinstance(value, bool) else str(value)

    return {p.name: text(p.default) for p in SIM_ARGUMENTS} | changes


def test_values_arrive_with_their_types():
    values = check_arguments(
        SIM_ARGUMENTS,
        texts(learn='False', seed='7', contract='a.yaml'),
        ['seed:=7', 'launch-prefix:=nice'],
    )
    assert values['learn'] is False
    assert values['seed'] == 7
    assert values['contract'] == 'a.yaml'
    assert values['use_sim_time'] is False


@pytest.mark.parametrize(
    ('changes', 'argv', 'words'),
    [
        ({}, ['contrct:=x'], "unknown launch argument 'contrct'; did you mean 'contract'?"),
        ({'learn': 'maybe'}, [], "learn is 'maybe'"),
        ({'seed': '1.5'}, [], "seed is '1.5'"),
        ({'seed': '-1'}, [], 'seed is -1'),
        ({'device': 'gpu'}, [], "device is 'gpu'"),
    ],
)
def test_wrong_arguments_are_refused_by_name(changes, argv, words):
    with pytest.raises(ParameterError) as caught:
        check_arguments(SIM_ARGUMENTS, texts(**changes), argv)
    assert words in str(caught.value)


@pytest.mark.parametrize('table', [ROBOT_ARGUMENTS, SIM_ARGUMENTS], ids=['robot', 'sim'])
def test_learning_by_the_clock_on_the_wall_refuses_simulated_time(table):
    def check(**changes):
        given = texts(**changes)
        return check_arguments(table, {p.name: given[p.name] for p in table})

    with pytest.raises(ParameterError) as caught:
        check(use_sim_time='true', pacing='wall', learn='true')
    text = str(caught.value)
    assert 'use_sim_time' in text
    assert 'give pacing:=lockstep or learn:=false' in text
    assert '\n' not in text
    assert check(use_sim_time='true', pacing='lockstep')['use_sim_time'] is True
    assert check(use_sim_time='true', pacing='wall', learn='false')['learn'] is False
    assert check(use_sim_time='false', pacing='wall')['pacing'] == 'wall'


def test_a_run_folder_is_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_folder('here') == tmp_path / 'here'
    assert run_folder('').parent == tmp_path / 'runs'


def test_a_watchdog_is_started_where_the_contract_wants_one_and_the_clock_paces(tmp_path):
    wants = tmp_path / 'wants.yaml'
    text = find_contract('point_reach').read_text()
    assert text.count('resume_after_stale: true') == 1
    wants.write_text(text.replace('resume_after_stale: true', 'watchdog: {timeout_s: 0.2}'))
    assert needs_watchdog(load_contract(str(wants)), 'wall')
    assert not needs_watchdog(load_contract(str(wants)), 'lockstep')
    assert not needs_watchdog(load_contract('point_reach'), 'wall')


def test_sim_passes_on_every_argument_of_robot():
    assert {p.name for p in ROBOT_ARGUMENTS} < {p.name for p in SIM_ARGUMENTS}


@pytest.mark.parametrize('path', sorted(LAUNCH.glob('*.launch.py')), ids=lambda p: p.name)
def test_launch_files_parse_and_define_their_entry(path):
    tree = ast.parse(path.read_text(encoding='utf-8'))
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert 'generate_launch_description' in functions
