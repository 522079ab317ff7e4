# SPDX-License-Identifier: Apache-2.0
"""Domains, child processes and shared memory: nothing collides, nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from qcfql_ros.cli.processes import ProcessError, Processes
from qcfql_ros.cli.session import node_command, ros_domain
from qcfql_ros.cli.shared_memory import SHM, orphans, remove_orphans
from qcfql_ros.errors import RobotError

PRINT = [sys.executable, '-S', '-c']
NODE = """
import rclpy, sys
from rclpy.node import Node
rclpy.init()
node = Node('left_alone')
print('up', flush=True)
rclpy.spin(node)
"""


def own_segments(pid):
    """Return the segments whose lock file a process holds open: those that it made."""
    handles = (os.readlink(path) for path in Path(f'/proc/{pid}/fd').iterdir())
    return {Path(path).name.removesuffix('_el') for path in handles if path.endswith('_el')}


@pytest.fixture
def processes(tmp_path):
    children = Processes(tmp_path / 'logs')
    yield children
    children.stop(timeout_s=1.0)


@pytest.fixture
def no_domain(monkeypatch):
    monkeypatch.delenv('ROS_DOMAIN_ID')


def test_two_sessions_get_different_domains(no_domain):
    with ros_domain() as (first, _):
        del os.environ['ROS_DOMAIN_ID']
        with ros_domain() as (second, _):
            assert first != second
            assert 0 <= first <= 101
            assert 0 <= second <= 101


def test_a_domain_stays_taken_while_a_child_holds_it(no_domain, tmp_path):
    with ros_domain() as (first, lock):
        children = Processes(tmp_path, pass_fds=[lock])
        children.start('child', [*PRINT, 'import time; time.sleep(60)'])
    with ros_domain() as (second, _):
        assert second != first
    children.stop(timeout_s=2.0)
    with ros_domain() as (third, _):
        assert third == first


def test_the_domain_a_user_set_is_kept(monkeypatch):
    monkeypatch.setenv('ROS_DOMAIN_ID', '77')
    monkeypatch.delenv('ROS_AUTOMATIC_DISCOVERY_RANGE', raising=False)
    with ros_domain() as (domain, lock):
        assert (domain, lock) == (77, None)
        assert os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] == 'LOCALHOST'
    assert 'ROS_AUTOMATIC_DISCOVERY_RANGE' not in os.environ


def test_a_domain_that_is_no_number_is_refused(monkeypatch):
    monkeypatch.setenv('ROS_DOMAIN_ID', 'robot')
    with pytest.raises(RobotError, match="'robot'"), ros_domain():
        pass


def test_a_child_that_dies_is_reported_with_its_last_words(processes, wait_until):
    processes.start('broken', [*PRINT, 'print("the reason"); raise SystemExit(3)'])
    wait_until(lambda: not processes.alive('broken'))
    with pytest.raises(ProcessError, match=r'(?s)broken ended with exit status 3.*the reason'):
        processes.check()


def test_a_childs_user_error_is_passed_on_as_its_one_line(processes, wait_until):
    code = 'import sys; print("qcfql: no such model", file=sys.stderr); sys.exit(2)'
    processes.start('policy', [*PRINT, code])
    wait_until(lambda: not processes.alive('policy'))
    with pytest.raises(ProcessError) as caught:
        processes.check()
    assert str(caught.value) == 'no such model'


def test_a_child_that_ignores_signals_is_killed_in_bounded_time(processes, wait_until):
    code = (
        'import signal, time\n'
        'for s in (signal.SIGINT, signal.SIGTERM): signal.signal(s, signal.SIG_IGN)\n'
        'print("deaf", flush=True)\n'
        'while True: time.sleep(1)'
    )
    processes.start('deaf', [*PRINT, code])
    wait_until(lambda: processes.tail('deaf'))
    assert processes.stop('deaf', timeout_s=0.2) == {'deaf': -signal.SIGKILL}


def test_children_die_with_their_parent(tmp_path, wait_until):
    code = f"""
import sys, time
from pathlib import Path
from qcfql_ros.cli.processes import Processes
children = Processes(Path({str(tmp_path)!r}))
print(children.start('child', [sys.executable, '-S', '-c', 'import time; time.sleep(60)']))
sys.stdout.flush()
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: not Path(f'/proc/{child}/cmdline').exists(), what='the child to end')


def test_shared_memory_of_a_killed_node_is_removed_and_that_of_a_living_one_kept(
    processes, wait_until
):
    for name in ('living', 'killed'):
        processes.start(name, [sys.executable, '-c', NODE])
        wait_until(lambda name=name: 'up' in processes.tail(name), 20.0, f'{name} to be up')
    segments = {name: own_segments(processes.pid(name)) for name in ('living', 'killed')}
    assert segments['living']
    assert segments['killed']
    processes.signal('killed', signal.SIGKILL)
    processes.wait('killed', 5.0)
    assert segments['killed'] <= set(orphans())
    remove_orphans()
    assert not segments['killed'] & set(orphans())
    assert not any(name.startswith(tuple(segments['killed'])) for name in os.listdir(SHM))
    assert segments['living'] <= set(os.listdir(SHM))
    assert processes.stop('living') == {'living': -signal.SIGINT}


def test_parameters_reach_a_node_with_their_types():
    import rclpy

    values = {'a': 1, 'b': 1e-05, 'c': 2.0, 'd': True, 'e': "it's", 'f': '', 'g': '7', 'h': 1e300}
    arguments = node_command('any_node', values)[3:]
    context = rclpy.Context()
    rclpy.init(args=arguments, context=context)
    node = rclpy.create_node(
        'any', context=context, automatically_declare_parameters_from_overrides=True
    )
    got = {name: node.get_parameter(name).value for name in values}
    node.destroy_node()
    context.shutdown()
    assert got == values
    assert {name: type(value) for name, value in got.items()} == {
        name: type(value) for name, value in values.items()
    }
