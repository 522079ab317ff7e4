# SPDX-License-Identifier: Apache-2.0
"""The log: each name is explained, rows stay true over a kill, looking changes nothing."""

import csv
import itertools
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from practice_data import random_events

from qcfql_ros.algorithm.config import METHODS, AlgorithmConfig
from qcfql_ros.algorithm.update import Update
from qcfql_ros.data.replay import Replay
from qcfql_ros.data.steps import SegmentEnd, Step
from qcfql_ros.training import metrics
from qcfql_ros.training.board import Board
from qcfql_ros.training.buffers import Buffers
from qcfql_ros.training.checkpoint import TrainingState
from qcfql_ros.training.csv_log import CsvLog
from qcfql_ros.training.diagnosis import (
    WARN_FROM_UPDATES,
    diagnose,
    left_behavior,
    realised_returns,
)
from qcfql_ros.training.offline import OfflineTraining, Schedule
from qcfql_ros.training.online import OnlineTraining
from qcfql_ros.training.pace import Pace
from qcfql_ros.training.validation import Validation

CONFIG = AlgorithmConfig(3, 2, num_critics=2, hidden_dims=(16, 16), batch_size=8)
DOCS = Path(__file__).parent.parent / 'docs' / 'metrics.md'


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr('os.fsync', lambda _: None)


def replay(config: AlgorithmConfig = CONFIG, episodes: int = 4, planned: bool = False) -> Replay:
    filled = Replay(
        500,
        3,
        2,
        config.action_chunk_size,
        config.discount,
        return_steps=config.return_steps,
        terminal_windows=config.terminal_windows,
    )
    for event in random_events(episodes, 12, 3, 2):
        if isinstance(event, Step) and not planned:
            event = Step(**{**vars(event), 'planned': None})
        filled.append(event)
    return filled


def start(config: AlgorithmConfig = CONFIG) -> tuple[TrainingState, Buffers]:
    state = TrainingState.start(config, 'c', 'h')
    return state, Buffers(replay(config), None, None, state.normalizer)


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline='') as file:
        return list(csv.DictReader(file))


def quiet(_: str) -> None:
    pass


def test_each_name_that_is_logged_stands_in_the_page_and_no_other() -> None:
    explained = re.findall(r'^\| `(\w+)` \|', DOCS.read_text(), re.MULTILINE)
    logged = {*metrics.OFFLINE_COLUMNS, *metrics.ONLINE_COLUMNS, *metrics.EVALUATION_COLUMNS}
    assert sorted(explained) == sorted(logged)


def test_each_metric_is_logged_by_some_method_and_what_any_method_logs_has_a_column(
    tmp_path: Path,
) -> None:
    filled: set[str] = set()
    for name, weighting in zip(METHODS, itertools.cycle(('value', 'uniform'))):
        config = CONFIG.with_changes(behavior_weighting=weighting, **METHODS[name])
        state, buffers = start(config)
        held_out = Validation(replay(config), state.normalizer, state.update, 0)
        folder = tmp_path / f'{name}_{weighting}'
        schedule = Schedule(2, behavior_updates=1, log_every=2)
        OfflineTraining(state, buffers, schedule, folder, validation=held_out, say=quiet).run()
        written = rows(folder / 'training.csv')
        filled |= {column for row in written for column, cell in row.items() if cell}
    assert filled == set(metrics.OFFLINE_COLUMNS)


def test_practice_fills_the_columns_of_its_log(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr('qcfql_ros.training.online.DIAGNOSE_EVERY_UPDATES', 2)
    state, buffers = start(CONFIG.with_changes(behavior_weighting='value'))
    training = OnlineTraining(state, buffers, Pace(1.0, 0), tmp_path, tensorboard=False)
    training.work(2)
    training.report()
    (row,) = rows(tmp_path / 'training.csv')
    assert tuple(row) == metrics.ONLINE_COLUMNS
    assert all(row.values())


@pytest.mark.parametrize('method', METHODS)
def test_no_update_waits_for_the_device_between_two_rows(
    method: str, monkeypatch, tmp_path: Path
) -> None:
    state, buffers = start(CONFIG.with_changes(behavior_weighting='value', **METHODS[method]))
    schedule = Schedule(20, log_every=10)
    training = OfflineTraining(state, buffers, schedule, tmp_path, say=quiet)
    waits: list[str] = []
    for name in ('item', 'tolist', 'numpy', '__float__', '__int__', '__bool__', '__index__'):
        plain = getattr(torch.Tensor, name)

        def counted(tensor, *rest, name=name, plain=plain):
            waits.append(f'{name} at update {state.update.count}')
            return plain(tensor, *rest)

        monkeypatch.setattr(torch.Tensor, name, counted)
    training.run()
    assert {wait.rpartition(' ')[2] for wait in waits} == {'10', '20'}  # the rows, and no other


def test_a_mean_is_that_of_the_updates_since_the_row_before() -> None:
    log = metrics.Metrics()
    assert log.take() == {}
    for value in (1.0, 2.0, 6.0):
        log.add({'a': torch.tensor(value), 'b': torch.tensor(-value)})
    assert log.take() == {'a': 3.0, 'b': -3.0}
    log.add({'other': torch.tensor(5.0)})
    assert log.take() == {'other': 5.0}


def test_rows_beyond_the_resumed_state_are_cut_and_half_a_line_too(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / 'a.csv', ('updates', 'other', 'x'), quiet)
    for count in (10, 20, 30, 40):
        log.row({'updates': count, 'x': count / 3})
    with open(log.path, 'a') as file:
        file.write('5')  # the kill came here
    log.resume(updates=30)
    log.row({'updates': 40, 'other': 7, 'x': 1e6 + 1})
    assert log.path.read_text() == (
        'updates,other,x\n10,,3.33333\n20,,6.66667\n30,,10\n40,7,1000001\n'
    )


@pytest.mark.parametrize(
    ('left', 'kept', 'aside'),
    [
        (b'', '', False),
        (b'updates,x\n10,1\n', '10,1\n', False),
        (b'updates,x\n10,1\n20,1234', '10,1\n', False),  # of 20,123456 perhaps
        (b'updates,x', '', False),
        (b'updates,x\n10,1\n\0\0\0\0\0\0', '10,1\n', False),
        (b'updates,x\n10,\xff\n20,"\n20,2\n', '20,2\n', False),
        (b'upd', '', True),
        (b'\0\0\0\0\0\0\0\0', '', True),
        (b'\xff\xfe,"' + b'x' * 200_000, '', True),
    ],
)
def test_a_log_that_a_loss_of_power_cut_or_garbled_goes_on(
    left: bytes, kept: str, aside: bool, tmp_path: Path
) -> None:
    path, said = tmp_path / 'a.csv', []
    path.write_bytes(left)
    log = CsvLog(path, ('updates', 'x'), said.append)
    log.resume(updates=20)
    log.row({'updates': 30, 'x': 3})
    assert path.read_text() == f'updates,x\n{kept}30,3\n'
    assert [line.name for line in tmp_path.glob('a_*.csv')] == (['a_1.csv'] if aside else [])
    assert len(said) == aside


def test_a_row_behind_half_a_row_begins_a_line_of_its_own(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / 'a.csv', ('updates', 'x'), quiet)
    log.path.write_text('updates,x\n10,1\n20')  # the disk was full, and is not any more
    log.row({'updates': 30, 'x': 3})
    log.row({'updates': 40, 'x': 4})
    assert log.path.read_text() == 'updates,x\n10,1\n20\n30,3\n40,4\n'
    log.resume(updates=30)
    assert log.path.read_text() == 'updates,x\n10,1\n30,3\n'


def test_a_file_with_other_columns_is_set_aside_untouched(tmp_path: Path) -> None:
    path, said = tmp_path / 'a.csv', []
    path.write_text('updates,old\n1,2\n')
    (tmp_path / 'a_1.csv').write_text('taken')
    log = CsvLog(path, ('updates', 'new'), said.append)
    log.resume(updates=1)
    log.row({'updates': 2, 'new': 3})
    assert (tmp_path / 'a_2.csv').read_text() == 'updates,old\n1,2\n'
    assert path.read_text() == 'updates,new\n2,3\n'
    assert len(said) == 1 and 'a_2.csv' in said[0]


def test_a_name_without_a_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='surprise'):
        CsvLog(tmp_path / 'a.csv', ('updates',), quiet).row({'surprise': 1.0})


def test_tensorboard_shows_what_the_csv_holds(tmp_path: Path) -> None:
    events = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    state, buffers = start()
    schedule = Schedule(6, log_every=2)
    OfflineTraining(state, buffers, schedule, tmp_path, tensorboard=True, say=quiet).run()
    shown = events.EventAccumulator(str(tmp_path / 'tensorboard'))
    shown.Reload()
    written = rows(tmp_path / 'training.csv')
    for name in ('loss_critic', 'behavior_share', 'q_minus_return'):
        points = [(event.step, event.value) for event in shown.Scalars(name)]
        assert [step for step, _ in points] == [2, 4, 6]
        expected = [float(row[name]) for row in written]
        assert [value for _, value in points] == pytest.approx(expected, rel=1e-5)


def test_without_tensorboard_one_line_says_so_and_the_csv_is_written(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.delitem(sys.modules, 'torch.utils.tensorboard', raising=False)
    monkeypatch.setitem(sys.modules, 'tensorboard', None)
    said: list[str] = []
    board = Board(tmp_path / 'tensorboard', 0, said.append)
    board.write({'a': 1.0}, 1)
    board.close()
    assert len(said) == 1 and 'TensorBoard is not installed' in said[0]
    assert not (tmp_path / 'tensorboard').exists()


def test_the_realised_return_is_the_discounted_sum_up_to_the_first_termination() -> None:
    ring = Replay(13, 1, 1, 2, 0.5)
    rewards = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
    for segment, terminal in enumerate([{3, 5}, set(), {1}]):
        for index, reward in enumerate(rewards[: (6, 3, 2)[segment]]):
            here = np.array([10.0 * segment + index], np.float32)
            ring.append(Step(index, here, here / 100, reward, index in terminal))
        ring.append(SegmentEnd(np.zeros(1, np.float32), False, 'end'))
    # 14 rows in a ring of 13: the first step is overwritten.
    states, chunks, returns = realised_returns(ring, 100, np.random.default_rng(0))
    found = {float(s[0]): (c.ravel().tolist(), r) for s, c, r in zip(states, chunks, returns)}
    # From step 1: 2 + 4/2 + 8/4; step 3 is terminated itself, so its chunk is cut; from 4: 16 +
    # 32/2; the second segment never ends; from 20: 1 + 2/2.
    assert {state: value for state, (_, value) in found.items()} == {
        1.0: 6.0, 2.0: 8.0, 4.0: 32.0, 20.0: 2.0
    }  # fmt: skip
    assert found[4.0][0] == pytest.approx([0.04, 0.05])


def test_diagnosis_tells_a_critic_that_is_off_by_three(monkeypatch) -> None:
    state, buffers = start()
    returns = {}
    for s, _, value in zip(*realised_returns(buffers.practice, 500, np.random.default_rng(0))):
        returns[tuple(s.tolist())] = value

    def off_by_three(self, observation, chunk):
        values = [returns.get(tuple(s), 0.0) + 3.0 for s in observation.tolist()]
        return torch.tensor(values)[:, None]

    monkeypatch.setattr('qcfql_ros.algorithm.networks.ChunkedCritic.forward', off_by_three)
    found = diagnose(state.update, buffers, state.normalizer)
    assert found['q_minus_return'] == pytest.approx(3.0, abs=1e-5)
    assert found['q_return_correlation'] == pytest.approx(1.0)
    assert found['q_tail_spread'] == 0.0  # it does not look at the chunk


def test_the_spread_over_tails_is_blank_where_every_tail_is_known() -> None:
    state, buffers = start()
    assert diagnose(state.update, buffers, state.normalizer)['q_tail_spread'] > 0.0
    config = CONFIG.with_changes(terminal_windows=False)
    state, buffers = start(config)
    assert 'q_tail_spread' not in diagnose(state.update, buffers, state.normalizer)


def snapshot(state: TrainingState) -> list[object]:
    update = state.update
    tensors = [*update.networks.parameters()]
    tensors += [value for entry in update.optimizer.state.values() for value in entry.values()]
    tensors += [update.generator.get_state(), torch.get_rng_state()]
    counts = (update.count, update.behavior_count, str(state.sampler.bit_generator.state))
    return [*(tensor.detach().clone() for tensor in tensors), *counts]


def test_validation_and_diagnosis_change_nothing_and_repeat_themselves() -> None:
    state, buffers = start()
    state.update.step(buffers.sample(8, state.sampler))
    before = snapshot(state)
    validation = Validation(replay(), state.normalizer, state.update, 0)
    first = validation.losses(state.update), diagnose(state.update, buffers, state.normalizer)
    again = validation.losses(state.update), diagnose(state.update, buffers, state.normalizer)
    assert first == again
    assert set(first[0]) == set(metrics.VALIDATION_METRICS)
    for now, then in zip(snapshot(state), before, strict=True):
        assert torch.equal(now, then) if isinstance(now, torch.Tensor) else now == then


def test_the_loss_on_held_out_segments_falls_with_training() -> None:
    state, buffers = start()
    validation = Validation(replay(), state.normalizer, state.update, 0)
    before = validation.losses(state.update)['validation_loss_behavior']
    for _ in range(300):
        state.update.behavior_step(buffers.sample(8, state.sampler))
    assert validation.losses(state.update)['validation_loss_behavior'] < 0.96 * before


def test_a_behaviour_that_no_longer_holds_the_policy_warns_once_and_says_what_to_try() -> None:
    update, notes = Update(CONFIG.with_changes(distillation_weight=3.0)), {}
    good = {'behavior_share': 0.34, 'loss_distillation': 0.21}
    for bad in ({'behavior_share': 0.25}, {'loss_distillation': 0.5}):
        update.count, notes = WARN_FROM_UPDATES - 1, {}
        assert not left_behavior(notes, good | bad, update)  # it is only being fitted
        update.count += 1
        assert not left_behavior(notes, good, update)
        line = left_behavior(notes, good | bad, update)
        assert '--distillation_weight 30' in line and 'docs/algorithm.md' in line
        assert not left_behavior(notes, good | bad, update)
    assert not left_behavior({}, {'loss_critic': 1.0}, update)  # nothing is distilled


def test_both_warnings_reach_the_person_once_in_a_run(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr('qcfql_ros.training.diagnosis.BEHAVIOR_SHARE_WARNING', 1.1)
    monkeypatch.setattr('qcfql_ros.training.diagnosis.WARN_FROM_UPDATES', 1)
    state, buffers = start()
    validation = Validation(replay(), state.normalizer, state.update, 0)
    rising = iter(np.arange(1.0, 9.0))
    monkeypatch.setattr(
        validation, 'losses', lambda update: {'validation_loss_behavior': float(next(rising))}
    )
    said: list[str] = []
    schedule = Schedule(16, log_every=2)
    OfflineTraining(
        state, buffers, schedule, tmp_path, validation=validation, say=said.append
    ).run()
    warnings = [line for line in said if line.startswith('warning: ')]
    assert len(warnings) == 2
    assert 'behavior_share' in warnings[0] and 'over-training' in warnings[1]


def test_the_warning_of_practice_is_in_its_status(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr('qcfql_ros.training.diagnosis.BEHAVIOR_SHARE_WARNING', 1.1)
    monkeypatch.setattr('qcfql_ros.training.diagnosis.WARN_FROM_UPDATES', 1)
    state, buffers = start()
    state.notes['warned_behavior_share'] = True  # said when it was pretrained; this run is new
    said: list[str] = []
    training = OnlineTraining(
        state, buffers, Pace(1.0, 0), tmp_path, tensorboard=False, say=said.append
    )
    training.work(1)
    assert 'behavior_share' in training.report()['warning']
    training.work(1)
    training.report()
    assert len(said) == 1
