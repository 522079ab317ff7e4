# SPDX-License-Identifier: Apache-2.0
"""`qcfql train`: a run that was stopped or killed goes on as if nothing had been."""

import csv
import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from train_runs import record_bag, words

from qcfql_ros.algorithm.policy import ChunkPolicy
from qcfql_ros.cli.main import main
from qcfql_ros.training import checkpoint, offline
from qcfql_ros.training.checkpoint import TrainingState


@pytest.fixture(scope='module')
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_bag(tmp_path_factory.mktemp('train') / 'bag')


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
    plain = ['--validation_fraction', 0]  # so that no best state is written before
    assert main(words(bag, tmp_path / 'out', 2, *plain)) == 0
    policy = tmp_path / 'out' / 'policy.safetensors'
    with monkeypatch.context() as patch:
        patch.setattr(*place, lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main(words(bag, tmp_path / 'out', 4, *plain))
    assert main(words(bag, tmp_path / 'out', 4, *plain)) == 0
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
