# SPDX-License-Identifier: Apache-2.0
"""`qcfql train`: a run that was stopped or killed goes on as if nothing had been."""

import csv
import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from recorded_ticks import CONTRACT, JOINTS, POSE, TRAJECTORY, Ticks
from safetensors import safe_open

from qcfql_ros.algorithm.config import METHODS, AlgorithmConfig
from qcfql_ros.algorithm.policy import ChunkPolicy
from qcfql_ros.cli import train
from qcfql_ros.cli.main import Parser, main
from qcfql_ros.cli.train_settings import add_settings, chosen_settings, differences
from qcfql_ros.data.recorder import BagRecorder
from qcfql_ros.errors import ParameterError
from qcfql_ros.training import checkpoint, offline
from qcfql_ros.training.checkpoint import TrainingState
from qcfql_ros.training.validation import Split

TOPICS = {
    '/joint_states': JOINTS,
    '/goal_pose': POSE,
    '/policy/step': JOINTS,
    '/policy/chunk': TRAJECTORY,
    '/outcome': JOINTS,
}
SMALL = ['--num_critics', '2', '--hidden_dims', '16', '--batch_size', '8', '--threads', '1']


@pytest.fixture(scope='module')
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four episodes of 12 ticks that end in success, and one too short for a window."""
    ticks = Ticks()
    for episode in range(25):
        length = 12 if episode else 2
        ended = {'terminated': True, 'success': True} if episode else {'truncated': True}
        ticks.run(ticks.now_ns, length, episode, **ended)
        ticks.wait(1.0)
    folder = tmp_path_factory.mktemp('train') / 'bag'
    recorder = BagRecorder(
        folder, TOPICS, contract_name=CONTRACT.name, contract_hash=CONTRACT.hash, namespace=''
    )
    for topic, stamp_ns, data in ticks.log:
        recorder.write(topic, stamp_ns, stamp_ns, data)
    recorder.close()
    return folder


def words(bag: Path, out: Path, updates: int, *more: object) -> list[str]:
    given = ['train', '--dataset_path', bag, '--contract', 'point_reach', '--output_dir', out]
    return [
        str(word)
        for word in (*given, '--num_pretrain_steps', updates, *SMALL, *more, '--no_tensorboard')
    ]


def rows(path: Path) -> list[dict[str, str]]:
    """Return the rows, without what no two runs share."""
    with open(path, newline='') as file:
        return [row for row in csv.DictReader(file) if row.pop('updates_per_s', '') is not None]


def assert_same_state(ours: Path, theirs: Path) -> None:
    first, second = safe_open(ours, 'pt'), safe_open(theirs, 'pt')
    names = set(first.keys())
    assert names == set(second.keys())
    for part in ('networks.critic', 'networks.target_critic', 'adam.exp_avg_sq', 'generator'):
        assert any(name.startswith(part) for name in names)
    for name in names:
        assert torch.equal(first.get_tensor(name), second.get_tensor(name)), name
    facts = [json.loads(file.metadata()['qcfql_state']) for file in (first, second)]
    for fact in facts:
        del fact['notes']['command']
    assert facts[0] == facts[1]


def test_a_run_in_three_parts_equals_a_run_in_one(bag: Path, tmp_path: Path) -> None:
    more = ['--pretrain', 'behavior', '--num_behavior_steps', 20, '--log_every', 10]
    more += ['--save_every', 20, '--behavior_weighting', 'value']
    assert main(words(bag, tmp_path / 'one', 60, *more)) == 0
    last = tmp_path / 'parts' / 'last.safetensors'
    assert main(words(bag, tmp_path / 'parts', 20, *more)) == 0
    at_20 = last.read_bytes()
    assert main(words(bag, tmp_path / 'parts', 40, *more)) == 0
    last.write_bytes(at_20)  # as if killed before the save at 40: rows 30 and 40 are there
    assert main(words(bag, tmp_path / 'parts', 60, *more)) == 0
    for name in ('last', 'best'):
        assert_same_state(*(tmp_path / f'{run}/{name}.safetensors' for run in ('one', 'parts')))
    one, parts = (rows(tmp_path / run / 'training.csv') for run in ('one', 'parts'))
    assert one == parts
    assert [(row['behavior_updates'], row['updates']) for row in one] == [
        ('10', '0'), ('20', '0'), *(('20', str(count)) for count in range(10, 61, 10))
    ]  # fmt: skip
    assert all(row['validation_loss_behavior'] for row in one)
    assert {row['short_segments'] for row in one} == {'1'}


# Runs `qcfql train` and is killed a moment after the so-manieth update, sync or renaming.
KILLED = """
import os, signal, sys, threading
from qcfql_ros.algorithm.update import Update
from qcfql_ros.cli.main import main

left, delay_s = int(sys.argv[1]), float(sys.argv[2])

def counted(function):
    def call(*given):
        global left
        left -= 1
        if not left:
            threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return function(*given)
    return call

Update.step, os.fsync, os.replace = map(counted, (Update.step, os.fsync, os.replace))
main(sys.argv[3:])
"""


def test_a_run_killed_at_a_random_moment_goes_on_to_the_same_end(
    bag: Path, tmp_path: Path, capsys
) -> None:
    more = ['--log_every', 5, '--save_every', 50, '--robot', 'point_reach']
    more += ['--evaluate_every', 150, '--evaluate_episodes', 1]
    assert main(words(bag, tmp_path / 'whole', 400, *more)) == 0
    # Behind the first save, and over a hundred updates, which take far longer than 5 ms, early.
    number, delay_s = random.randint(80, 280), random.uniform(0.0, 0.005)
    command = [sys.executable, '-c', KILLED, str(number), str(delay_s)]
    command += words(bag, tmp_path / 'cut', 400, *more)
    killed = subprocess.run(command, stdout=subprocess.DEVNULL, timeout=120)
    assert killed.returncode == -signal.SIGKILL, (number, delay_s)
    capsys.readouterr()
    assert main(words(bag, tmp_path / 'cut', 400, *more)) == 0
    assert 'going on from' in capsys.readouterr().out, (number, delay_s)
    for name in ('last', 'best'):
        assert_same_state(*(tmp_path / f'{run}/{name}.safetensors' for run in ('whole', 'cut')))
    for name in ('policy', 'best_policy'):
        whole, cut = (
            ChunkPolicy.load(tmp_path / f'{run}/{name}.safetensors') for run in ('whole', 'cut')
        )
        assert (whole.digest, whole.info) == (cut.digest, cut.info)
    for name in ('training', 'evaluation'):
        logs = [rows(tmp_path / run / f'{name}.csv') for run in ('whole', 'cut')]
        assert logs[0] == logs[1]
    assert [row['updates'] for row in logs[0]] == ['150', '300', '400']


@pytest.mark.parametrize('broken', ['state', 'policy'])
def test_a_run_killed_between_its_two_last_files_ends_with_both(
    broken: str, bag: Path, tmp_path: Path, monkeypatch
) -> None:
    place = {'state': (TrainingState, 'save'), 'policy': (offline, 'write_policy')}[broken]
    assert main(words(bag, tmp_path / 'out', 2)) == 0
    policy = tmp_path / 'out' / 'policy.safetensors'
    with monkeypatch.context() as patch:
        patch.setattr(*place, lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main(words(bag, tmp_path / 'out', 4))
    assert main(words(bag, tmp_path / 'out', 4)) == 0
    assert ChunkPolicy.load(policy).info.updates == 4


def test_a_run_that_is_done_makes_a_policy_that_is_missing_or_old(
    bag: Path, tmp_path: Path
) -> None:
    policy = tmp_path / 'out' / 'policy.safetensors'
    assert main(words(bag, tmp_path / 'out', 2)) == 0
    old = policy.read_bytes()
    assert main(words(bag, tmp_path / 'out', 4)) == 0
    new = ChunkPolicy.load(policy)
    for left in (old, old[:-4], None):
        policy.unlink() if left is None else policy.write_bytes(left)
        assert main(words(bag, tmp_path / 'out', 4)) == 0
        now = ChunkPolicy.load(policy)
        assert (now.digest, now.info) == (new.digest, new.info)
        assert new.digest != ChunkPolicy.load(old).digest


def test_a_run_that_is_done_says_so(bag: Path, tmp_path: Path, capsys) -> None:
    assert main(words(bag, tmp_path / 'out', 4)) == 0
    before = (tmp_path / 'out' / 'last.safetensors').read_bytes()
    capsys.readouterr()
    report = tmp_path / 'report.json'
    assert main(words(bag, tmp_path / 'out', 3, '--json', report)) == 0
    assert 'nothing to do: 4 updates are done' in capsys.readouterr().out
    assert json.loads(report.read_text())['updates'] == 4
    assert (tmp_path / 'out' / 'last.safetensors').read_bytes() == before


def test_the_split_of_a_run_is_kept_and_another_is_refused(
    bag: Path, tmp_path: Path, capsys
) -> None:
    assert main(words(bag, tmp_path / 'out', 2, '--validation_fraction', 0.1)) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if 'held out: ' in line]
    assert len(said) == 1 and said[0].endswith(('2 segments', '3 segments'))
    assert main(words(bag, tmp_path / 'out', 4)) == 0  # without the flag
    assert said[0] in capsys.readouterr().out.splitlines()
    assert main(words(bag, tmp_path / 'out', 6, '--validation_fraction', 0.2)) == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and 'trained with --validation_fraction 0.1' in error


def test_a_run_that_held_nothing_out_holds_nothing_out_of_more_data(
    bag: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr('qcfql_ros.training.validation.MIN_SEGMENTS', 26)
        assert main(words(bag, tmp_path / 'out', 2)) == 0
    assert 'too few segments to hold any out' in capsys.readouterr().out
    for updates, given in ((4, []), (6, ['--validation_fraction', 0.05])):
        assert main(words(bag, tmp_path / 'out', updates, *given)) == 0
        assert 'held out: ' not in capsys.readouterr().out
    assert main(words(bag, tmp_path / 'out', 8, '--validation_fraction', 0.1)) == 2
    assert 'trained with --validation_fraction 0.05' in capsys.readouterr().err


def test_what_is_said_of_a_state_from_another_device_reaches_the_person(
    bag: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    assert main(words(bag, tmp_path / 'out', 2)) == 0
    monkeypatch.setattr(checkpoint, '_continue_generator', lambda *_: False)
    assert main(words(bag, tmp_path / 'out', 4)) == 0
    assert 'now cpu: noise is seeded anew' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('changed', 'says'),
    [
        (['--seed', 9], 'trained with --seed 0, now it is 9'),
        (['--normalize_observations'], 'trained with --normalize_observations False'),
        (['--pretrain', 'behavior'], 'trained with --pretrain joint, now it is behavior'),
        (['--capacity', 5000], 'now it is 5000'),
    ],
)
def test_an_argument_that_a_run_cannot_change_is_refused_by_name(
    changed: list, says: str, bag: Path, tmp_path: Path, capsys
) -> None:
    assert main(words(bag, tmp_path / 'out', 2)) == 0
    assert main(words(bag, tmp_path / 'out', 4, *changed)) == 2
    error = capsys.readouterr().err
    assert says in error and error.count('\n') == 1


def test_a_behaviour_stage_alone_goes_on_to_more_updates(
    bag: Path, tmp_path: Path, capsys
) -> None:
    more = ['--pretrain', 'behavior', '--num_behavior_steps']
    assert main(words(bag, tmp_path / 'out', 0, *more, 4)) == 0
    assert main(words(bag, tmp_path / 'out', 0, *more, 8)) == 0
    assert main(words(bag, tmp_path / 'out', 0, *more, 8)) == 0
    assert 'nothing to do: 8 behaviour updates are done' in capsys.readouterr().out
    state = TrainingState.load(tmp_path / 'out' / 'last.safetensors')
    assert (state.update.behavior_count, state.update.count) == (8, 0)
    assert main(words(bag, tmp_path / 'out', 2, *more, 8)) == 0
    assert main(words(bag, tmp_path / 'out', 4, *more, 9)) == 2
    assert 'trained alone for 8 updates and that stage is over' in capsys.readouterr().err


def test_other_settings_than_those_of_the_run_are_refused_by_name(
    bag: Path, tmp_path: Path, capsys
) -> None:
    assert main(words(bag, tmp_path / 'out', 2)) == 0
    assert main(words(bag, tmp_path / 'out', 4, '--discount', 0.9, '--no_terminal_windows')) == 2
    error = capsys.readouterr().err
    assert 'discount 0.99 (0.9), terminal_windows on (off); give another' in error


@pytest.mark.parametrize('method', METHODS)
def test_each_method_trains_and_says_where_it_is_not_the_default(
    method: str, bag: Path, tmp_path: Path, capsys
) -> None:
    assert main(words(bag, tmp_path / 'out', 2, '--method', method)) == 0
    said = capsys.readouterr().out
    settings = next(line for line in said.splitlines() if line.startswith('settings: '))
    assert f'method {method}, pretrain joint; other than by default: ' in settings
    assert 'num_critics 2 (10)' in settings and 'batch_size 8 (256)' in settings
    assert ('actor best_of_n (distilled)' in settings) == (method in ('qc', 'bfn', 'bc'))
    assert (tmp_path / 'out' / 'policy.safetensors').is_file()


def settings(*given: str) -> dict:
    parser = Parser()
    add_settings(parser)
    return chosen_settings(parser.parse_args(given))


def test_flags_go_over_the_method_and_the_method_over_the_preset() -> None:
    assert settings() == {}
    paper = settings('--preset', 'paper')
    assert (paper['action_chunk_size'], paper['window_sampling']) == (5, 'reference')
    mixed = settings('--preset', 'paper', '--method', 'bfn')
    assert (mixed['action_chunk_size'], mixed['num_action_samples']) == (1, 4)
    assert mixed['window_sampling'] == 'reference'
    mine = ['--num_action_samples', '7', '--hidden_dims', '8', '9']
    chosen = settings('--preset', 'paper', '--method', 'bfn', *mine)
    assert (chosen['num_action_samples'], chosen['hidden_dims']) == (7, [8, 9])


def test_every_setting_has_a_flag_that_sets_it() -> None:
    parser = Parser()
    add_settings(parser)
    default = AlgorithmConfig(1, 1)
    names = set(default.to_dict()) - {'state_dim', 'action_dim'}
    assert names <= {action.dest for action in parser._actions if action.help}
    other = {
        'return_steps': 9, 'critic_aggregation': 'mean', 'actor': 'best_of_n', 'discount': 0.5,
        'behavior_weighting': 'value', 'window_sampling': 'reference', 'hidden_dims': (5,),
        'target_update': 'after', 'adam_bias_correction': 'float32', 'terminal_windows': False,
    }  # fmt: skip
    for name in names - set(other):
        value = getattr(default, name)
        other[name] = not value if isinstance(value, bool) else value * 0.5
        if isinstance(value, int) and not isinstance(value, bool):
            other[name] = value + 1
    given = []
    for name, value in other.items():
        if isinstance(value, bool):
            given += [f'--{name}' if value else f'--no_{name}']
        else:
            given += [f'--{name}', *(str(value).strip('(,)').split())]
    chosen = AlgorithmConfig(1, 1, **settings(*given))
    assert chosen == AlgorithmConfig(1, 1, **other)
    assert differences(chosen).count('(') == len(names)  # and each is shown


@pytest.mark.parametrize(
    ('given', 'says'),
    [
        (['--method', 'qcfql'], "method 'qcfql' is unknown; did you mean 'qc_fql'?"),
        (['--actor', 'random'], "actor: got 'random'"),
        (['--preset', 'paper', '--terminal_windows'], 'set terminal_windows to false'),
    ],
)
def test_a_setting_out_of_range_is_one_line(given: list[str], says: str) -> None:
    with pytest.raises(ParameterError) as caught:
        settings(*given)
    assert says in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize(
    ('given', 'says'),
    [
        (['--num_behavior_steps', '5'], '--num_behavior_steps needs --pretrain behavior'),
        (['--log_every', '0'], 'log_every: got 0, wanted at least 1'),
        (['--seed', '-1'], '--seed is -1; wanted at least 0'),
        (['--seed', str(1 << 63)], 'wanted less than 2^63'),
        (['--threads', '-1'], '--threads is -1; wanted at least 0'),
        (['--device', 'gpu'], "--device is 'gpu'; wanted cpu or cuda"),
        (['--num_pretrain_steps', '0'], '--num_pretrain_steps is 0: nothing to train'),
        (['--validation_fraction', '0.9'], 'validation_fraction: got 0.9, wanted in [0, 0.5]'),
    ],
)
def test_wrong_arguments_are_one_line_and_leave_nothing(
    given: list[str], says: str, bag: Path, tmp_path: Path, capsys
) -> None:
    assert main(words(bag, tmp_path / 'out', 2, *given)) == 2
    error = capsys.readouterr().err
    assert says in error and error.count('\n') == 1
    assert not (tmp_path / 'out').exists()


def test_a_folder_that_is_a_file_is_one_line(bag: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / 'file').write_text('mine')
    assert main(words(bag, tmp_path / 'file' / 'out', 2)) == 2
    error = capsys.readouterr().err
    assert 'file is not a folder' in error and error.count('\n') == 1
    assert (tmp_path / 'file').read_text() == 'mine'


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_a_gpu_that_is_not_there_is_one_line(bag: Path, tmp_path: Path, capsys) -> None:
    assert main(words(bag, tmp_path / 'out', 2, '--device', 'cuda')) == 2
    assert '--device cuda: torch finds no GPU here' in capsys.readouterr().err


def test_imitating_successes_leaves_out_the_episodes_without_one(
    bag: Path, tmp_path: Path
) -> None:
    parser = Parser()
    train.add_arguments(parser)
    given = words(bag, tmp_path, 2, '--behavior_weighting', 'success', '--validation_fraction', 0)
    arguments = parser.parse_args(given[1:])
    config = AlgorithmConfig(6, 2, behavior_weighting='success')
    training, _ = train._load(arguments, CONTRACT, config, Split(0.0, 0))
    successes = 24 * 12
    assert training.steps == successes + 2
    assert int(np.sum(training.imitated)) == successes
