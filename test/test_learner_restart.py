# SPDX-License-Identifier: Apache-2.0
"""A learner that is killed and started again finds a robot that is already under way."""

import signal
from pathlib import Path

from test_evaluate import save_policy

from qcfql_ros.cli.demo_monitor import DemoMonitor
from qcfql_ros.cli.session import node_command, ros_session
from qcfql_ros.contract.named_vector import decode_outcome
from qcfql_ros.contract.topics import JOINT_STATE
from qcfql_ros.data.cdr import CdrReader
from qcfql_ros.data.reader import read_bag


def test_a_robot_that_waits_for_credits_goes_on_after_the_learner_was_killed(
    tmp_path: Path,
) -> None:
    model = save_policy(tmp_path / 'policy.safetensors')
    shared = {'contract': 'point_reach', 'pacing': 'lockstep', 'seed': 1}
    learner = node_command('learner_node', shared | {'run_dir': tmp_path / 'run', 'learn': False})
    robot = {'robot': 'point_reach', 'wait_for_credits': True, 'expected_subscribers': 2}
    policy = {'model': model, 'state_dir': tmp_path / 'state'}
    with ros_session(tmp_path) as processes, DemoMonitor('outcome') as monitor:
        monitor.hear_outcomes()
        processes.start('learner', learner)
        processes.start('policy', node_command('policy_node', shared | policy))
        processes.start('robot', node_command('gym_robot_node', shared | robot))

        def wait_for_ticks(more: int) -> None:
            wanted = monitor.practice.ticks + more
            for _ in range(600):
                monitor.spin(0.1)
                if monitor.practice.ticks >= wanted:
                    return
            raise AssertionError(f'{monitor.practice.ticks} ticks, wanted {wanted}')

        wait_for_ticks(700)  # more than a new learner would allow a robot that stands at 0
        processes.signal('learner', signal.SIGKILL)
        assert processes.wait('learner', 10.0) == -signal.SIGKILL
        stood = -1
        while stood != monitor.practice.ticks:  # it has no more credits
            stood = monitor.practice.ticks
            monitor.spin(1.0)
        processes.start('learner', learner)
        wait_for_ticks(700)
        processes.check('robot', 'policy', 'learner')
        processes.signal('learner', signal.SIGTERM)
        assert processes.wait('learner', 20.0) == 0
    read, ticks = CdrReader(), []
    for _, _, data in read_bag(tmp_path / 'run' / 'bag', ['/outcome']):
        ticks.append(decode_outcome(read(data, JOINT_STATE)).tick)
    after = [tick for tick in ticks if tick > stood]
    assert after[0] <= stood + 10, 'few ticks are risked until all is heard'
    assert after == list(range(after[0], after[0] + len(after))), 'and then none is missed'
    assert len(after) > 600
