# SPDX-License-Identifier: Apache-2.0
"""Every test session has a ROS domain of its own and leaves nothing in /dev/shm."""

from __future__ import annotations

import os
import time

import pytest
from hypothesis import settings

settings.register_profile('no deadline', deadline=None)  # a busy machine is no failure
settings.load_profile('no deadline')
os.environ.setdefault('HF_HUB_OFFLINE', '1')  # no test may look for a hub
os.environ.setdefault('MPLBACKEND', 'Agg')
os.environ.setdefault('OMP_NUM_THREADS', '1')


@pytest.fixture(scope='session', autouse=True)
def ros_isolation(tmp_path_factory):
    """Take a free ROS domain for this session, keep logs out of HOME, clean up at the end."""
    from qcfql_ros.cli.session import ros_domain
    from qcfql_ros.cli.shared_memory import remove_orphans

    started_s = time.time() - 1.0
    os.environ['ROS_LOG_DIR'] = str(tmp_path_factory.mktemp('ros_logs'))
    with ros_domain() as (domain, _):
        yield domain
    remove_orphans(started_s)


@pytest.fixture
def wait_until():
    """Return ``wait_until(predicate, timeout_s=10, what='')``: poll, or fail saying what for."""

    def wait(predicate, timeout_s=10.0, what='the predicate'):
        deadline = time.monotonic() + timeout_s
        while not (value := predicate()):
            if time.monotonic() > deadline:
                pytest.fail(f'waited {timeout_s} s for {what}')
            time.sleep(0.01)
        return value

    return wait


@pytest.fixture
def scene(tmp_path):
    """Return ``scene(**kwargs)``: policy node and scripted robot, closed after the test."""
    from policy_scene import Scene

    scenes = []

    def make(**kwargs):
        scenes.append(Scene(tmp_path, **kwargs))
        return scenes[-1]

    yield make
    for made in scenes:
        made.close()
