# SPDX-License-Identifier: Apache-2.0
"""`qcfql evaluate` through the whole ROS loop, and `qcfql train` from a bag."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from qcfql_ros.algorithm.policy import ChunkPolicy, PolicyInfo
from qcfql_ros.contract import find_contract, load_contract


def qcfql(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, '-m', 'qcfql_ros.cli', *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def save_policy(path: Path, contract_hash: str | None = None) -> Path:
    contract = load_contract('point_reach')
    info = PolicyInfo(
        contract.name,
        contract_hash or contract.hash,
        contract.state_dim,
        contract.action.dim,
        4,
        (32,),
    )
    path.write_bytes(ChunkPolicy.random(info, seed=1).to_bytes())
    return path


def test_the_same_seed_gives_the_same_episodes_and_another_seed_others(tmp_path: Path) -> None:
    model = save_policy(tmp_path / 'policy.safetensors')
    digests = []
    for number, seed in enumerate((3, 3, 4)):
        report = tmp_path / f'{number}.json'
        done = qcfql(
            'evaluate', '--model', model, '--contract', 'point_reach', '--episodes', 4,
            '--seed', seed, '--json', report,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert '95 % Wilson interval' in done.stdout
        digests.append(json.loads(report.read_text())['ticks_sha256'])
    assert digests[0] == digests[1] != digests[2]


@pytest.fixture(scope='module')
def demos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('demos') / 'bag'
    done = qcfql('record-demos', '--robot', 'point_reach', '--steps', 200, '--out', folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_demonstrations_become_a_policy_that_goes_on_where_it_was(
    demos: Path, tmp_path: Path
) -> None:
    words = [
        'train', '--dataset_path', demos, '--contract', 'point_reach', '--output_dir',
        tmp_path / 'out', '--num_critics', 2, '--hidden_dims', 32, '--batch_size', 16,
        '--robot', 'point_reach', '--evaluate_every', 20, '--evaluate_episodes', 2,
    ]  # fmt: skip
    first = qcfql(*words, '--num_pretrain_steps', 20)
    assert first.returncode == 0, first.stderr
    assert '20 updates: ' in first.stdout
    second = qcfql(*words, '--num_pretrain_steps', 40)
    assert second.returncode == 0, second.stderr
    assert 'going on from' in second.stdout
    policy = ChunkPolicy.load(tmp_path / 'out' / 'policy.safetensors')
    assert policy.info.updates == 40
    assert policy.info.contract_hash == load_contract('point_reach').hash


def images_contract(folder: Path) -> Path:
    contract = yaml.safe_load(find_contract('point_reach').read_text())
    camera = {'topic': 'camera/image', 'type': 'sensor_msgs/msg/CompressedImage'}
    contract['features']['observation.images.front'] = camera
    path = folder / 'with_camera.yaml'
    path.write_text(yaml.safe_dump(contract))
    return path


@pytest.mark.parametrize(
    ('change', 'says'),
    [
        (['--preset', 'papr'], "preset 'papr' is unknown; did you mean 'paper'?"),
        (['--discount', '1.5'], 'discount: got 1.5, wanted in [0, 1]'),
        (['--evaluate_every', '5'], '--evaluate_every needs --robot'),
        (['--dataset_path', 'nowhere'], 'nowhere'),
        (['--contract', 'ur5e_cube'], 'was recorded under contract'),
        (['--contract', 'ur5_cube'], "did you mean 'ur5e_cube'?"),
        (['--contract', 'IMAGES'], 'training on images is not supported yet'),
    ],
)
def test_what_cannot_be_trained_is_one_line_and_status_2(
    change: list[str], says: str, demos: Path, tmp_path: Path
) -> None:
    if change[1] == 'IMAGES':
        change = ['--contract', str(images_contract(tmp_path))]
    out = tmp_path / 'out'
    base = ['train', '--dataset_path', demos, '--contract', 'point_reach', '--output_dir', out]
    done = qcfql(*base, *change)
    assert done.returncode == 2
    assert done.stderr.count('\n') == 1
    assert says in done.stderr
    assert not out.exists()


def test_a_model_of_another_contract_is_refused_with_both_named(tmp_path: Path) -> None:
    model = save_policy(tmp_path / 'policy.safetensors', contract_hash='0' * 64)
    done = qcfql('evaluate', '--model', model, '--contract', 'point_reach', '--episodes', 1)
    assert done.returncode == 2
    assert done.stderr.count('\n') == 1
    assert '000000000000' in done.stderr and load_contract('point_reach').hash[:12] in done.stderr


def test_an_unknown_robot_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    model = save_policy(tmp_path / 'policy.safetensors')
    words = ['--contract', 'point_reach', '--robot', 'point_rech', '--episodes', 1]
    done = qcfql('evaluate', '--model', model, *words)
    assert done.returncode == 2
    assert done.stderr.count('\n') == 1
    assert "did you mean 'point_reach'?" in done.stderr


def test_a_best_of_n_policy_is_trained_from_demonstrations_and_drives_the_robot(
    demos: Path, tmp_path: Path
) -> None:
    done = qcfql(
        'train', '--dataset_path', demos, '--contract', 'point_reach', '--output_dir', tmp_path,
        '--method', 'qc', '--num_critics', 2, '--hidden_dims', 32, '--batch_size', 16,
        '--num_pretrain_steps', 20,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    model, report = tmp_path / 'policy.safetensors', tmp_path / 'report.json'
    assert ChunkPolicy.load(model).info.best_of_n.num_action_samples == 32
    done = qcfql(
        'evaluate', '--model', model, '--contract', 'point_reach', '--episodes', 2,
        '--seed', 3, '--json', report,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(report.read_text())['episodes'] == 2
