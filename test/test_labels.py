# SPDX-License-Identifier: Apache-2.0
"""Labels: what is written is read, what is impossible is refused, and steps are cut by them."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from train_runs import record_bag

from qcfql_ros.contract import load_contract
from qcfql_ros.data.dataset import load_dataset
from qcfql_ros.data.labels import (
    LABELS,
    Label,
    Labels,
    label_all,
    labels_path,
    load_labels,
    write_labels,
)
from qcfql_ros.data.reader import BagReader
from qcfql_ros.data.steps import SegmentEnd, Step
from qcfql_ros.data.teleoperation import labels_note
from qcfql_ros.errors import BagError

DATA = Path(__file__).parent / 'data'
BAG = DATA / 'rosbag2' / 'mcap_zstd_split'
CLOCK = '/arm/joint_trajectory'
START = 1_700_000_000_123_456_789

times = st.lists(
    st.integers(-(10**9), 10**9).map(lambda ms: ms / 1e3), min_size=2, max_size=20, unique=True
)


@given(times, st.data())
@settings(max_examples=100)
def test_labels_are_read_as_they_were_written(tmp_path_factory, ends, data):
    ends = sorted(ends)
    episodes = tuple(
        Label(begin, end, data.draw(st.sampled_from(LABELS)))
        for begin, end in zip(ends[::2], ends[1::2], strict=False)
    )
    bag = tmp_path_factory.mktemp('labels') / 'bag'
    labels = Labels(START, episodes)
    assert write_labels(bag, labels) == bag.with_name('bag.labels.yaml')
    assert load_labels(bag) == labels
    assert [path.name for path in bag.parent.iterdir()] == ['bag.labels.yaml']


def test_labels_that_do_not_fit_on_the_disk_leave_nothing(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, before[1]))
    try:
        with pytest.raises(BagError, match=r'labels cannot be written: .*File too large'):
            write_labels(tmp_path / 'bag', Labels(START, (Label(0.0, 1.0, 'abort'),)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


@given(st.lists(st.integers(2_000_000, 10**12), min_size=1, max_size=30))
def test_stretches_keep_their_stamps_and_stay_apart(gaps):
    """Stretches 2 ms apart or more: each of its stamps is in its label, and in no other."""
    ends = (START + np.cumsum(gaps)).tolist()
    stretches = list(zip(ends[::2], ends[1::2], strict=False))
    labels = label_all(START, stretches, ['success'] * len(stretches))
    for (first, last), label in zip(stretches, labels.episodes, strict=True):
        assert labels.begin_ns(label) <= first <= last <= labels.end_ns(label)
        assert first - labels.begin_ns(label) < 10**6 > labels.end_ns(label) - last


@pytest.mark.parametrize(
    ('change', 'wanted'),
    [
        ({'labels': 2}, r'labels: got 2, wanted 1'),
        ({'start_ns': -1}, r'start_ns: got -1'),
        ({'start_ns': 1.5}, r'start_ns: got 1.5'),
        ({'start_ns': 10**20}, r'start_ns: got 10+, wanted'),
        ({'episodes': []}, r'episodes: got \[\], wanted a list'),
        ({'episode': []}, r"unknown key 'episode'.*did you mean 'episodes'"),
        ({'episodes': [[0.0, 1.0, 'sucess']]}, r"got 'sucess'.*did you mean 'success'"),
        ({'episodes': [[1.0, 1.0, 'abort']]}, r'episode 0 .*begin before its end'),
        ({'episodes': [[2.0, 1.0, 'abort']]}, r'episode 0 .*begin before its end'),
        ({'episodes': [[0, 2, 'abort'], [2, 3, 'abort']]}, r'episode 1 .*begins before'),
        ({'episodes': [[0.0, float('nan'), 'abort']]}, r'end_s: got nan'),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else '',
)
def test_what_is_impossible_is_refused_with_file_and_place(change, wanted, tmp_path):
    document = {'labels': 1, 'start_ns': START, 'episodes': [[0.0, 1.0, 'success']]} | change
    document['episodes'] = [
        dict(zip(('begin_s', 'end_s', 'outcome'), row, strict=True))
        for row in document['episodes']
    ]
    path = labels_path(tmp_path / 'bag')
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(BagError, match=wanted) as error:
        load_labels(tmp_path / 'bag')
    assert str(path) in str(error.value)


def test_labels_lie_beside_a_bag_however_it_is_named(tmp_path, monkeypatch):
    (tmp_path / 'bag').mkdir()
    wanted = tmp_path / 'bag.labels.yaml'
    monkeypatch.chdir(tmp_path / 'bag')
    for name in (tmp_path / 'bag', Path('../bag'), Path('.'), Path('../bag/'), Path('x/..')):
        assert labels_path(name).resolve() == wanted
    assert load_labels('.') is None


@pytest.fixture(scope='module')
def bag(tmp_path_factory):
    folder = tmp_path_factory.mktemp('bags') / 'bag'
    shutil.copytree(BAG, folder)
    return folder


@pytest.fixture(scope='module')
def contract(tmp_path_factory):
    """The scene's, with a reward by the outcome."""
    data = yaml.safe_load((DATA / 'teleoperation.yaml').read_text())
    data['recordings']['reward'] = {'step': -0.5, 'success': 2.0, 'failure': -3.0}
    del data['outcome']['failure_reward']
    path = tmp_path_factory.mktemp('contract') / 'contract.yaml'
    path.write_text(yaml.safe_dump(data))
    return load_contract(path)


@pytest.fixture(scope='module')
def stamps(bag):
    """The receive stamp of the first message, and both stamps of each command."""
    by_step = [
        (m.receive_ns, int.from_bytes(m.data[4:8], 'little') * 10**9
         + int.from_bytes(m.data[8:12], 'little'))
        for m in BagReader(bag, [CLOCK])
    ]  # fmt: skip
    return next(iter(BagReader(bag))).receive_ns, by_step


@given(data=st.data())
@settings(max_examples=12)
def test_steps_are_those_of_the_labels_and_end_as_they_say(data, bag, contract, stamps):
    """Any labels over the first 200 commands, in which nothing is wrong."""
    start_ns, commands = stamps
    commands = commands[:200]
    cuts = data.draw(
        st.lists(st.integers(0, 199), min_size=2, max_size=12, unique=True).map(sorted)
    )
    outcomes = [data.draw(st.sampled_from(LABELS)) for _ in cuts[1::2]]
    stretches = [
        (commands[a][0], commands[b][0]) for a, b in zip(cuts[::2], cuts[1::2], strict=False)
    ]
    write_labels(bag, label_all(start_ns, stretches, outcomes))
    events = list(load_dataset(bag, contract))
    wanted = []
    number = 0
    for first, last, outcome in zip(cuts[::2], cuts[1::2], outcomes, strict=False):
        if outcome == 'discard':
            continue
        for tick in range(first, last + 1):
            final = tick == last
            reward = {'success': 2.0, 'failure': -3.0}.get(outcome, -0.5) if final else -0.5
            ended = final and outcome in ('success', 'failure')
            wanted.append(
                (commands[tick][1], reward, ended, final and outcome == 'success', number)
            )
            # Between the first two episodes of the bag there is a gap.
            if final:
                wanted.append((outcome not in ('success', 'failure'), True))
            elif tick == 79:
                wanted.append((True, False))
        number += 1
    got = [
        (event.truncated, event.episode_end)
        if isinstance(event, SegmentEnd)
        else (event.stamp_ns, event.reward, event.terminated, event.success, event.episode)
        for event in events
    ]
    assert got == wanted


def test_what_labels_stand_for_is_said(bag, contract, tmp_path):
    labels_path(bag).unlink(missing_ok=True)
    assert labels_note(bag, contract) == ''
    labels = Labels(START, (Label(0.0, 1.0, 'abort'),))
    path = write_labels(bag, labels)
    note = labels_note(bag, contract)
    assert f'those of {path}, not those announced on episode' in note
    path.unlink()
    ours = record_bag(tmp_path / 'ours')
    path = write_labels(ours, labels)
    assert labels_note(ours, contract).endswith(f'{path} is not looked at')


def test_labels_stand_for_events_and_a_file_of_the_bag_has_its_own(bag, contract, stamps):
    start_ns, commands = stamps
    labels_path(bag).unlink(missing_ok=True)
    announced = [event for event in load_dataset(bag, contract) if isinstance(event, Step)]
    write_labels(bag, label_all(start_ns, [(commands[3][0], commands[9][0])], ['abort']))
    labelled = [event for event in load_dataset(bag, contract) if isinstance(event, Step)]
    assert (len(announced), len(labelled)) == (624, 7)
    one = next(bag.glob('*_0.mcap'))
    assert labels_path(one).name == f'{one.name}.labels.yaml'
    assert load_labels(one) is None
    labels_path(bag).unlink()
