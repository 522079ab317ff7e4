# SPDX-License-Identifier: Apache-2.0
"""The demo's counting, pictures and verdict, and its errors, without its five minutes."""

from __future__ import annotations

import json
import re

import pytest

from qcfql_ros.cli.demo_report import reasons_not_run
from qcfql_ros.cli.demo_view import LineView, Snapshot, TableView
from qcfql_ros.cli.main import main
from qcfql_ros.cli.plots import plot_learning_curve, plot_tick_timing
from qcfql_ros.cli.practice import Practice, RecordedPractice, write_episodes
from qcfql_ros.cli.report import write_report
from qcfql_ros.contract.named_vector import Outcome
from qcfql_ros.training.wilson import wilson_interval


def outcome(tick, *, episode=0, success=False, ended=False, reward=-1.0):
    return Outcome(
        stamp_ns=tick * 50_000_000,
        reward=reward,
        terminated=success,
        truncated=ended and not success,
        success=success,
        episode=episode,
        tick=tick,
        ended=ended,
    )


def practice_of(results, length=10):
    practice = Practice()
    tick = 0
    for episode, success in enumerate(results):
        for index in range(length):
            tick += 1
            last = index == length - 1
            practice.add(
                outcome(tick, episode=episode, success=success and last, ended=last), tick / 20
            )
    return practice


def recorded(**changes):
    values = {
        'episodes': practice_of([True, False]).episodes,
        'messages': {'/outcome': 20},
        'transitions': 20,
        'policy_versions': (0, 1),
        'step_s': [0.0, 0.05, 0.1],
        'lateness_s': [0.001, 0.002, 0.001],
    }
    return RecordedPractice(**(values | changes))


def test_episodes_are_counted_where_they_end():
    practice = practice_of([True, False, True])
    assert practice.successes() == (2, 3)
    assert practice.successes(last=2) == (1, 2)
    assert [episode.ticks for episode in practice.episodes] == [10, 10, 10]
    assert practice.episodes[0].total_reward == -10.0


def test_an_abandoned_episode_is_not_counted_and_leaves_nothing_to_the_next():
    practice = Practice()
    practice.add(outcome(1, episode=0), 0.0)
    practice.add(outcome(2, episode=1, success=True, ended=True), 0.1)
    assert practice.successes() == (1, 1)
    assert practice.episodes[0].ticks == 1


def test_the_rate_is_that_of_the_last_seconds():
    practice = practice_of([False] * 20)
    assert practice.ticks_per_s(10.0) == pytest.approx(20.0, rel=0.05)
    assert practice.ticks_per_s(1000.0) == 0.0


@pytest.mark.parametrize(
    ('successes', 'trials', 'low', 'high'),
    [(0, 0, 0.0, 1.0), (8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (120, 120, 0.9690, 1.0)],
)
def test_wilson_interval_agrees_with_published_values(successes, trials, low, high):
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(
    ('changes', 'buffered', 'failure', 'reason'),
    [
        ({}, 0, '', 'no step reached the buffer'),
        ({'episodes': []}, 20, '', 'no episode was finished'),
        ({'transitions': 0}, 20, '', 'no transition was recorded'),
        ({'policy_versions': (3,)}, 20, '', r'no new policy version \(only 3\)'),
        ({}, 20, 'robot ended', 'robot ended'),
    ],
)
def test_the_loop_did_not_run_if_any_part_of_it_did_not(changes, buffered, failure, reason):
    reasons = reasons_not_run(recorded(**changes), buffered, failure)
    assert len(reasons) == 1
    assert re.search(reason, reasons[0])


def test_the_loop_ran_if_every_part_of_it_did():
    assert reasons_not_run(recorded(), 20, '') == []


@pytest.mark.parametrize('results', [[], [True], [False, True] * 30])
def test_pictures_are_drawn_for_any_number_of_episodes(tmp_path, results):
    episodes = practice_of(results).episodes
    plot_learning_curve(tmp_path / 'curve.png', episodes, 'title')
    plot_tick_timing(tmp_path / 'timing.png', [0.0, 0.05, 0.1], [0.001] * 3, 0.05)
    plot_tick_timing(tmp_path / 'lockstep.png', [], None, 0.05)
    for name in ('curve', 'timing', 'lockstep'):
        assert (tmp_path / f'{name}.png').stat().st_size > 5000


def test_episodes_are_written_one_a_line(tmp_path):
    write_episodes(tmp_path / 'episodes.csv', practice_of([True, False]).episodes)
    lines = (tmp_path / 'episodes.csv').read_text().splitlines()
    assert lines == [
        'episode,end_s,ticks,total_reward,success,policy_version',
        '0,0.450,10,-10.000,True,-1',
        '1,0.950,10,-10.000,False,-1',
    ]


@pytest.mark.parametrize('view', [LineView, TableView])
def test_both_views_show_the_numbers(capsys, view):
    diagnostics = {
        'policy': {'policy_version': '7', 'late_ticks': '3'},
        'learner': {'buffer': '1234', 'updates': '567', 'updates_per_s': '8.9'},
    }
    with view() as shown:
        for elapsed_s in (0.0, 61.0):
            practice = practice_of([True, False, True])
            shown.show(Snapshot('practising', elapsed_s, 300.0, practice, 20.0, diagnostics))
    output = capsys.readouterr().out
    for text in ('practising', '1:01', '1234', '567', '8.9', '7', '20.0/s'):
        assert text in output


def test_a_report_is_flat_and_written_whole(tmp_path):
    path = tmp_path / 'deep' / 'report.json'
    write_report(path, {'episodes': 3, 'success': 0.5, 'note': None})
    assert json.loads(path.read_text()) == {'episodes': 3, 'success': 0.5, 'note': None}
    with pytest.raises(TypeError, match='flat'):
        write_report(path, {'nested': [1]})
    assert json.loads(path.read_text())['episodes'] == 3
    assert [file.name for file in path.parent.iterdir()] == ['report.json']


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['dmeo'], "unknown verb 'dmeo'; did you mean 'demo'?"),
        (['demo', '--minutes', '0'], '--minutes is 0; wanted more than 0'),
        (['demo', '--model', 'no_such_model'], "model 'no_such_model': no such file"),
        (['demo', '--minuets', '1'], 'unrecognized arguments: --minuets'),
    ],
)
def test_what_the_user_can_change_is_one_line_and_exit_status_2(
    capsys, tmp_path, monkeypatch, arguments, words
):
    monkeypatch.chdir(tmp_path)
    try:
        status = main(arguments)
    except SystemExit as caught:
        status = caught.code
    assert status == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count('\n') == 1
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_breaks_off_keeps_what_it_recorded(tmp_path, monkeypatch):
    def broken(arguments, contract, model, run_dir, stop):
        (run_dir / 'bag').mkdir()
        raise RuntimeError('of whatever kind')

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('qcfql_ros.cli.demo._practise', broken)
    with pytest.raises(RuntimeError):
        main(['demo'])
    assert [path.name for path in (tmp_path / 'runs').glob('*/bag')] == ['bag']


def test_a_setting_that_a_node_would_refuse_is_refused_before_anything_is_made(
    capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(['demo', '--utd-ratio', '0', '--run-dir', 'here']) == 2
    assert main(['demo', '--robot', 'point_reach', '--run-dir', 'here']) == 2
    errors = capsys.readouterr().err.splitlines()
    assert 'update_to_data_ratio: got 0.0' in errors[0]
    assert "made for contract 'ur5e_cube'" in errors[1] and len(errors) == 2
    assert list(tmp_path.iterdir()) == []
