# SPDX-License-Identifier: Apache-2.0
"""Imports point one way, and the robot side stays light."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = 'qcfql_ros'
ROOT = Path(__file__).resolve().parent.parent / PACKAGE
# Each layer imports itself and those above it; those of one line may import each other.
LAYERS = [
    ['__init__', 'errors', 'parameter', 'parameters'],
    ['algorithm'],
    ['contract'],
    ['data'],
    ['control'],
    ['nodes', 'robots', 'training'],
    ['cli'],
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
FILES = sorted(ROOT.rglob('*.py'))
# Not on a robot: simulators, LeRobot, bag libraries and the command line.
HEAVY = ['lerobot', 'gymnasium', 'ogbench', 'mujoco', 'rosbags', 'mcap', 'rich', 'matplotlib']


def imports(path):
    """Yield (line, dotted name) of every import in a file, lazy ones too."""
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}:{node.lineno}: imports are absolute here'
            module = node.module or ''
            if module == PACKAGE:
                yield from ((node.lineno, f'{PACKAGE}.{alias.name}') for alias in node.names)
            else:
                yield node.lineno, module


def layer(dotted):
    """Return the layer's name of a module of this package."""
    parts = dotted.split('.')
    return parts[1] if len(parts) > 1 and parts[1] in RANK else '__init__'


def module_name(path):
    return '.'.join(path.relative_to(ROOT.parent).with_suffix('').parts)


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_arrow_points_back(path):
    own = RANK[layer(module_name(path))]
    wrong = [
        f'{path}:{line}: imports {name}'
        for line, name in imports(path)
        if name.split('.')[0] == PACKAGE and RANK[layer(name)] > own
    ]
    assert not wrong


@pytest.mark.parametrize('folder', ['contract', 'control', 'algorithm'])
def test_the_robots_layers_never_import_what_a_robot_lacks(folder):
    wrong = [
        f'{path}:{line}: imports {name}'
        for path in (ROOT / folder).rglob('*.py')
        for line, name in imports(path)
        if name.split('.')[0] in HEAVY
    ]
    assert not wrong


@pytest.mark.parametrize('folder', ['algorithm', 'contract', 'data', 'control'])
def test_the_pure_layers_import_no_ros_when_loaded(folder):
    modules = [
        module_name(path).removesuffix('.__init__') for path in (ROOT / folder).rglob('*.py')
    ]
    load(modules, blocked=['rclpy'])


@pytest.mark.parametrize(
    ('modules', 'blocked'),
    [
        (['nodes.policy_node'], [*HEAVY, f'{PACKAGE}.training', f'{PACKAGE}.cli']),
        (['nodes.gym_robot_node', 'robots.point_reach'], [*HEAVY, 'torch', f'{PACKAGE}.cli']),
        (['nodes.watchdog_node'], [*HEAVY, 'torch', f'{PACKAGE}.training', f'{PACKAGE}.cli']),
        (['nodes.learner_node'], ['torch', 'lerobot', 'gymnasium', 'ogbench', 'mujoco']),
        (['cli.main', 'cli.session', 'cli.demo'], ['torch', 'lerobot', 'gymnasium', 'rclpy']),
    ],
    ids=lambda value: value[0],
)
def test_a_process_starts_without_what_it_does_not_need(modules, blocked):
    load([f'{PACKAGE}.{name}' for name in modules], blocked)


def load(modules, blocked):
    """Import modules in a process of their own in which others cannot be imported."""
    for name in modules:
        assert importlib.util.find_spec(name), f'{name} does not exist'
    code = (
        'import importlib, sys\n'
        f'sys.modules.update(dict.fromkeys({blocked!r}))\n'
        f'for name in {modules!r}: importlib.import_module(name)\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
