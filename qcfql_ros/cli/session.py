# SPDX-License-Identifier: Apache-2.0
"""A ROS graph of our own on this machine: a free domain, children, nothing left behind.

::

    with ros_session(run_dir) as processes:
        processes.start('robot', node_command('gym_robot_node', {'robot': 'point_reach'}))
        ...                                   # this process's own rclpy nodes see them
        processes.check()                     # ProcessError if one has died
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from qcfql_ros.cli.processes import Processes
from qcfql_ros.cli.shared_memory import remove_orphans
from qcfql_ros.errors import RobotError

DOMAINS = (*range(1, 102), 0)  # 0 last: it is where everybody else is
PORT_BASE, PORTS_PER_DOMAIN = 7400, 250

Scalar = str | int | float | bool | Path


def _udp_ports() -> set[int]:
    """Return the local UDP ports in use on this machine."""
    ports = set()
    for table in ('/proc/net/udp', '/proc/net/udp6'):
        with contextlib.suppress(OSError), open(table, encoding='ascii') as file:
            ports |= {int(line.split()[1].rpartition(':')[2], 16) for line in list(file)[1:]}
    return ports


def _take(domain: int, busy: set[int]) -> int | None:
    """Return the descriptor of the domain's locked lock file; None when it is taken."""
    first = PORT_BASE + PORTS_PER_DOMAIN * domain
    if not busy.isdisjoint(range(first, first + PORTS_PER_DOMAIN)):
        return None
    path = Path(tempfile.gettempdir()) / f'ros_domain_id_{domain}.lock'
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except PermissionError:  # another user's: taken, as far as we can know
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


@contextlib.contextmanager
def ros_domain() -> Iterator[tuple[int, int | None]]:
    """Give this process and its children a ROS domain that nobody uses.

    ROS_DOMAIN_ID is respected when it is set; else one of 0 to 101 is taken under a lock that
    lasts as long as its descriptor is open in any process. Discovery stays on this machine.

    Yields:
        the domain and the lock's descriptor, None when the user chose the domain.

    Raises:
        RobotError: no domain is free, or ROS_DOMAIN_ID is not one.
    """
    chosen = os.environ.get('ROS_DOMAIN_ID', '')
    handle = None
    if chosen:
        if not (chosen.isdecimal() and int(chosen) <= 232):
            raise RobotError(f'ROS_DOMAIN_ID is {chosen!r}; wanted a number from 0 to 101')
        domain = int(chosen)
    else:
        busy = _udp_ports()
        for domain in DOMAINS:
            handle = _take(domain, busy)
            if handle is not None:
                break
        else:
            raise RobotError('all ROS domains from 0 to 101 are in use; set ROS_DOMAIN_ID')
    before = dict(os.environ)
    os.environ['ROS_DOMAIN_ID'] = str(domain)
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    os.environ.pop('ROS_LOCALHOST_ONLY', None)  # the old name; set, it wins over the new one
    os.environ.pop('ROS_STATIC_PEERS', None)
    try:
        yield domain, handle
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)
        if handle is not None:
            os.close(handle)


def child_environment(log_folder: Path) -> dict[str, str]:
    """Return this process's environment with what a node's log file needs."""
    return {
        **os.environ,
        'PYTHONUNBUFFERED': '1',
        'RCUTILS_COLORIZED_OUTPUT': '0',
        'RCUTILS_LOGGING_USE_STDOUT': '0',
        'RCUTILS_CONSOLE_OUTPUT_FORMAT': '[{severity}] [{time}] [{name}]: {message}',
        'ROS_LOG_DIR': str(log_folder / 'ros'),
    }


def _argument(value: Scalar) -> str:
    """Return `value` as YAML for ``-p name:=value``."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        mantissa, e, exponent = repr(value).partition('e')  # 1e-05 is text to YAML, 1.0e-05 is not
        return f'{mantissa}.0e{exponent}' if e and '.' not in mantissa else repr(value)
    if isinstance(value, int):
        return str(value)
    text = str(value).replace("'", "''")
    return f"'{text}'"


def node_command(
    executable: str,
    parameters: Mapping[str, Scalar] | None = None,
    namespace: str = '',
    remap: Mapping[str, str] | None = None,
) -> list[str]:
    """Return the command that runs ``qcfql_ros.nodes.<executable>`` in this interpreter.

    Args:
        executable: `policy_node`, `learner_node`, `gym_robot_node`, ...
        parameters: ROS parameters by name.
        namespace: of the node; empty for none.
        remap: ``from:=to`` rules, `__node` among them.
    """
    command = [sys.executable, '-m', f'qcfql_ros.nodes.{executable}', '--ros-args']
    for name, value in (parameters or {}).items():
        command += ['-p', f'{name}:={_argument(value)}']
    rules = dict(remap or {})
    if namespace:
        rules['__ns'] = '/' + namespace.strip('/')
    for source, target in rules.items():
        command += ['-r', f'{source}:={target}']
    return command


@contextlib.contextmanager
def ros_session(run_dir: Path) -> Iterator[Processes]:
    """Yield `Processes` with their logs in ``run_dir/logs``, in a ROS domain of their own.

    On the way out, whatever the reason, every child that still runs is stopped, the last started
    first, and what killed ones left in /dev/shm is removed.

    Raises:
        RobotError: no ROS domain is free.
    """
    started_s = time.time() - 1.0
    logs = run_dir.absolute() / 'logs'
    with ros_domain() as (_, lock):
        processes = Processes(logs, child_environment(logs), () if lock is None else (lock,))
        try:
            yield processes
        finally:
            processes.stop()
            remove_orphans(started_s)
