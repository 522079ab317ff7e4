# SPDX-License-Identifier: Apache-2.0
"""A bag to train from, and the words of a small `qcfql train`."""

from pathlib import Path

from recorded_ticks import CONTRACT, JOINTS, POSE, TRAJECTORY, Ticks

from qcfql_ros.data.dataset import load_dataset
from qcfql_ros.data.recorder import BagRecorder
from qcfql_ros.data.steps import Step

TOPICS = {
    '/joint_states': JOINTS,
    '/goal_pose': POSE,
    '/policy/step': JOINTS,
    '/policy/chunk': TRAJECTORY,
    '/outcome': JOINTS,
}
SMALL = ['--num_critics', '2', '--hidden_dims', '16', '--batch_size', '8', '--threads', '1']


def record_bag(folder: Path, below: str = '', contract_hash: str = CONTRACT.hash) -> Path:
    """Record 24 episodes of 12 ticks that end in success, and one too short for a window.

    `below` comes before each topic, and the bag does not say so.
    """
    ticks = Ticks()
    for episode in range(25):
        length = 12 if episode else 2
        ended = {'terminated': True, 'success': True} if episode else {'truncated': True}
        ticks.run(ticks.now_ns, length, episode, **ended)
        ticks.wait(1.0)
    recorder = BagRecorder(
        folder,
        {f'{below}{topic}': kind for topic, kind in TOPICS.items()},
        contract_name=CONTRACT.name,
        contract_hash=contract_hash,
        namespace='',
    )
    for topic, stamp_ns, data in ticks.log:
        recorder.write(f'{below}{topic}', stamp_ns, stamp_ns, data)
    recorder.close()
    return folder


def tear(bag: Path) -> None:
    """Cut off the end of `record_bag`'s file, with some of its steps but not with all."""
    split = bag / 'bag_0.mcap'
    data = split.read_bytes()
    for size in range(len(data), 0, -500):
        split.write_bytes(data[:size])
        if sum(isinstance(event, Step) for event in load_dataset(bag, CONTRACT)) < 290:
            break


def words(bag: Path, out: Path, updates: int, *more: object) -> list[str]:
    given = ['train', '--dataset_path', bag, '--contract', 'point_reach', '--output_dir', out]
    return [
        str(word)
        for word in (*given, '--num_pretrain_steps', updates, *SMALL, *more, '--no_tensorboard')
    ]
