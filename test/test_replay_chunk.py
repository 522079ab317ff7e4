# SPDX-License-Identifier: Apache-2.0
"""A recorded chunk is computed again from its bag to the bit; whatever was changed shows."""

from __future__ import annotations

import json

import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped
from policy_scene import CONTRACT, PERIOD, START, make_policy
from recorded_ticks import EMPTY, STORE, TRAJECTORY, T, Ticks, header, state
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from qcfql_ros.cli.main import main
from qcfql_ros.data.recorder import BagRecorder
from qcfql_ros.nodes.qos import RECORD_QOS

KINDS = {
    '/joint_states': JointState,
    '/goal_pose': PoseStamped,
    '/policy/step': JointState,
    '/policy/chunk': JointTrajectory,
}
POLICY = make_policy()


def save(folder, messages):
    """Write messages of (topic, receive stamp, CDR bytes) as the bag of a run, with its policy."""
    types = CONTRACT.recorded_topics('')
    recorder = BagRecorder(
        folder / 'bag', types, contract_name=CONTRACT.name, contract_hash=CONTRACT.hash
    )
    for topic, receive_ns, data in messages:
        recorder.write(topic, receive_ns, receive_ns, data)
    recorder.close()
    policies = folder / 'policies'
    policies.mkdir()
    (policies / f'{POLICY.digest}.safetensors').write_bytes(POLICY.to_bytes())
    return folder


def chunk_bytes(stamp_ns, observation, seed=11, number=0, stamps=None, **changed):
    """Return the announcement of what POLICY plans, as its node would send it."""
    planned = POLICY.plan(observation, seed) + changed.pop('error', 0.0)
    about = {'chunk': number, 'episode': 0, 'seed': seed, 'digest': POLICY.digest}
    about |= {'policy_version': 0, 'observation_stamps': stamps} | changed
    start = T['builtin_interfaces/msg/Duration'](0, 0)
    point = T['trajectory_msgs/msg/JointTrajectoryPoint']
    points = [point(row.astype(np.float64), EMPTY, EMPTY, EMPTY, start) for row in planned]
    message = T[TRAJECTORY](
        header(stamp_ns, json.dumps(about)), list(CONTRACT.action.names), points
    )
    return bytes(STORE.serialize_cdr(message, TRAJECTORY))


def recorded(tmp_path, chunks=3, late=False, **changed):
    """Return a run in which one chunk, the second, is changed."""
    ticks = Ticks()
    for i in range(chunks):
        stamp_ns = START + i * PERIOD
        stamps = dict.fromkeys(CONTRACT.streams, stamp_ns)
        more = {'stamps': stamps} | (changed if i == 1 else {})
        data = chunk_bytes(stamp_ns, state(0.1 * i), number=i, **more)
        if late:  # announced before its sensors were received
            ticks.add('/policy/chunk', data)
        ticks.sensors(stamp_ns, 0.1 * i)
        if not late:
            ticks.add('/policy/chunk', data)
    return save(tmp_path, ticks.log)


def replay(capsys, *arguments):
    status = main(['replay-chunk', *map(str, arguments)])
    said = capsys.readouterr()
    return status, said.out + said.err


@pytest.mark.parametrize('tuning', [{}, {'noise_scale': 0.5}])
def test_what_the_node_planned_is_planned_again_from_what_was_on_the_wire(
    scene, tmp_path, capsys, tuning
):
    it = scene(episode_ticks=6, **tuning)
    log = []
    for topic, kind in KINDS.items():

        def hear(data, topic=topic):
            log.append((topic, 1_700_000_000_000_000_000 + len(log), data))

        it.robot.create_subscription(kind, topic, hear, RECORD_QOS, raw=True)
    it.drive(14)
    it.until(lambda: sum(topic == '/policy/chunk' for topic, _, _ in log) == 5, 'five chunks')
    run = save(tmp_path / 'run', log)
    report = tmp_path / 'report.json'
    status, said = replay(capsys, run, '--json', report)
    assert status == 0, said
    assert '5 of 5 chunks compared, 5 bit-exact' in said
    assert f'{5 if tuning else 0} chunks not planned as trained' in said
    values = json.loads(report.read_text())
    assert (values['compared'], values['bit_exact'], values['agrees']) == (5, 5, True)
    assert values['device'] == 'cpu' and values['threads'] == 1 and values['torch']


def test_a_bag_of_its_own_and_one_chunk_of_it(tmp_path, capsys):
    run = recorded(tmp_path / 'run')
    status, said = replay(capsys, run / 'bag', '--chunk', 1, '--policies', run / 'policies')
    assert status == 0 and '1 of 1 chunks compared, 1 bit-exact' in said
    status, said = replay(capsys, run, '--chunk', 7)
    assert status == 2 and 'holds no chunk 7' in said


def test_a_chunk_that_was_received_before_its_sensors_waits_for_them(tmp_path, capsys):
    status, said = replay(capsys, recorded(tmp_path / 'run', late=True))
    assert status == 0 and '3 of 3 chunks compared, 3 bit-exact' in said


@pytest.mark.parametrize(
    ('changed', 'said'),
    [
        ({'error': np.float32(1e-3)}, 'chunk 1 of episode 0: differs by 0.001'),
        ({'noise_scale': 0.5}, 'chunk 1 of episode 0: differs by'),
        ({'stamps': dict.fromkeys(CONTRACT.streams, 5)}, r'no message stamped 5'),
    ],
)
def test_a_chunk_that_was_tampered_with_fails(tmp_path, capsys, changed, said):
    status, text = replay(capsys, recorded(tmp_path / 'run', **changed))
    assert status == 1 and said in text
    assert text.count('chunk 0') == text.count('chunk 2') == 0


def test_a_seed_that_was_tampered_with_fails(tmp_path, capsys):
    run = recorded(tmp_path / 'run')
    status, said = replay(capsys, recorded(tmp_path / 'other', seed=12))
    assert status == 0, said  # another seed, honestly used
    data = chunk_bytes(START, state(0.0), stamps=dict.fromkeys(CONTRACT.streams, START))
    ticks = Ticks()
    ticks.sensors(START, 0.0)
    ticks.add('/policy/chunk', data.replace(b'"seed": 11', b'"seed": 12'))
    status, said = replay(capsys, save(tmp_path / 'tampered', ticks.log))
    assert status == 1 and 'differs by' in said
    assert run.exists()


def test_a_difference_below_the_tolerance_is_stated_and_passes(tmp_path, capsys):
    status, said = replay(capsys, recorded(tmp_path / 'run', error=np.float32(2e-6)))
    assert status == 0 and '2 bit-exact, largest difference 2' in said and 'in chunk 1' in said


def test_another_policy_in_its_place_or_none_is_refused_by_digest_and_folder(tmp_path, capsys):
    run = recorded(tmp_path / 'run')
    file = run / 'policies' / f'{POLICY.digest}.safetensors'
    file.write_bytes(make_policy(seed=2).to_bytes())
    status, said = replay(capsys, run)
    assert status == 2 and f'holds policy {make_policy(seed=2).digest}' in said
    file.write_bytes(POLICY.to_bytes()[:-4] + b'\0\0\0\1')
    status, said = replay(capsys, run)
    assert status == 2 and 'damaged' in said
    file.unlink()
    status, said = replay(capsys, run)
    assert status == 2 and f'no policy {POLICY.digest} in {run / "policies"}' in said


def test_a_recording_under_another_contract_is_refused(tmp_path, capsys):
    run = recorded(tmp_path / 'run')
    status, said = replay(capsys, run, '--contract', 'ur5e_cube')
    assert status == 2 and "recorded under contract 'point_reach'" in said
