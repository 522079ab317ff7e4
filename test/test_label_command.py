# SPDX-License-Identifier: Apache-2.0
"""`qcfql label`: what it writes, what it refuses, and that it leaves the bag alone."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
from train_runs import record_bag

from qcfql_ros.cli.main import main
from qcfql_ros.contract import load_contract
from qcfql_ros.data.dataset import load_dataset
from qcfql_ros.data.labels import Label, load_labels
from qcfql_ros.data.steps import Step
from qcfql_ros.errors import BagError

DATA = Path(__file__).parent / 'data'
CONTRACT = DATA / 'teleoperation.yaml'
OUTCOMES = 'success,timeout,failure,success,success,abort,success'


@pytest.fixture
def bag(tmp_path):
    shutil.copytree(DATA / 'rosbag2' / 'mcap_zstd_split', tmp_path / 'bag')
    return tmp_path / 'bag'


def label(bag, *words):
    return main(['label', str(bag), *map(str, words)])


def content(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).digest() for path in folder.iterdir()}


def test_gaps_find_the_episodes_and_the_steps_are_those_of_the_events(bag, capsys):
    contract, before = load_contract(CONTRACT), content(bag)
    announced = [e.stamp_ns for e in load_dataset(bag, contract) if isinstance(e, Step)]
    assert label(bag, '--by-gaps', 0.5, '--contract', CONTRACT, '--outcomes', OUTCOMES) == 0
    said = capsys.readouterr().out
    assert f'{bag}.labels.yaml:' in said
    assert [line.split()[-2] for line in said.splitlines() if 'commands' in line] == [
        *('80', '120', '90', '100', '100', '90', '60')
    ]
    assert 'stand for the events on episode' in said
    labelled = [e for e in load_dataset(bag, contract) if isinstance(e, Step)]
    assert [step.stamp_ns for step in labelled] == announced
    assert [step.episode for step in labelled if step.terminated] == [0, 2, 3, 4, 6]
    assert content(bag) == before, 'the bag is not changed'


def test_episodes_by_time_are_kept_in_order(bag, capsys):
    assert label(bag, '--episode', 20, 21.5, 'abort', '--episode', 0.5, 4, 'success') == 0
    labels = load_labels(bag)
    assert labels.episodes == (Label(0.5, 4.0, 'success'), Label(20.0, 21.5, 'abort'))
    written = capsys.readouterr().out
    assert label(bag, '--show') == 0
    assert written.endswith(capsys.readouterr().out)
    assert label(bag, '--show', '--topic', 'arm/joint_trajectory') == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-2:] for line in lines] == [['70', 'commands'], ['30', 'commands']]


def test_a_whole_bag_is_one_episode(bag):
    assert label(bag, '--whole', '--outcome', 'failure') == 0
    (one,) = load_labels(bag).episodes
    assert (one.begin_s, one.outcome) == (0.0, 'failure') and 36.0 < one.end_s < 37.0
    assert label(bag, '--whole', '--outcome', 'abort', '--contract', CONTRACT, '--force') == 0
    (one,) = load_labels(bag).episodes
    assert one.outcome == 'abort' and 0.5 < one.begin_s < 0.6, 'from the first command on'


def test_what_a_damaged_bag_leaves_out_is_said(tmp_path, capsys):
    shutil.copytree(DATA / 'rosbag2' / 'mcap_killed', tmp_path / 'killed')
    words = ('--topic', '/arm/joint_trajectory', '--outcome', 'abort')
    assert label(tmp_path / 'killed', '--by-gaps', 1, *words) == 0
    said = capsys.readouterr().err
    assert said.startswith(f'qcfql label: {tmp_path / "killed"}: left out 1 stretch')


def test_labels_are_replaced_only_when_told(bag, capsys):
    assert label(bag, '--whole', '--outcome', 'success') == 0
    before = load_labels(bag)
    assert label(bag, '--whole', '--outcome', 'failure') == 2
    assert 'replace it with --force' in capsys.readouterr().err
    assert load_labels(bag) == before


@pytest.mark.parametrize(
    ('words', 'wanted'),
    [
        (['--by-gaps', 0.5, '--outcome', 'success'], 'needs --contract, or --topic'),
        (['--by-gaps', 0, '--topic', '/reward'], '--by-gaps is 0'),
        (['--by-gaps', 1, '--topic', '/rewards'], 'no topic /rewards; it has'),
        (['--by-gaps', 0.5, '--topic', '/reward'], '0 outcomes for 7 episodes (0.5 to 4.5 s, '),
        (['--by-gaps', 0.5, '--topic', '/reward', '--outcomes', 'abort'], '1 outcomes for 7'),
        (['--whole', '--outcome', 'sucess'], "'sucess', want one of"),
        (['--whole'], '0 outcomes for 1 episodes'),
        (['--episode', 0, 'x', 'abort'], '--episode 0 x abort: want seconds'),
        (['--episode', 0, 'nan', 'abort'], 'want a begin before its end'),
        (['--episode', 0, 2, 'abort', '--outcome', 'abort'], 'names its outcome itself'),
        (['--episode', 0, 2, 'abort', '--episode', 1, 3, 'abort'], 'begins before the one'),
        (['--whole', '--outcome', 'abort', '--contract', 'point_reach'], 'section `recordings`'),
        (['--show'], 'has no labels'),
        (['--show', '--outcome', 'abort'], '--show writes nothing; leave out'),
        (['--show', '--outcomes', 'abort'], '--show writes nothing; leave out'),
        (['--show', '--force'], '--show writes nothing; leave out'),
    ],
)
def test_what_cannot_be_is_one_line_and_nothing_is_written(words, wanted, bag, capsys):
    assert label(bag, *words) == 2
    said = capsys.readouterr().err
    assert wanted in said and said.count('\n') == 1
    assert [path.name for path in bag.parent.iterdir()] == ['bag']


def test_a_recording_with_outcomes_of_its_own_is_not_labelled(tmp_path, capsys):
    assert label(record_bag(tmp_path / 'ours'), '--whole', '--outcome', 'success') == 2
    assert 'recorded with its outcomes' in capsys.readouterr().err


def test_damaged_labels_are_an_error_before_training(bag):
    contract = load_contract(CONTRACT)
    bag.with_name('bag.labels.yaml').write_text('labels: 1\nepisodes: 3\n')
    with pytest.raises(BagError, match=r'bag.labels.yaml: start_ns: is missing'):
        load_dataset(bag, contract)
