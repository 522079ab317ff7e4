# SPDX-License-Identifier: Apache-2.0
"""`qcfql train --dataset_path`: which bags, what it says of them, and how much memory it takes."""

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from recorded_ticks import CONTRACT
from test_train_resume import assert_same_state, rows
from train_runs import record_bag, tear, words

from qcfql_ros.algorithm.config import AlgorithmConfig
from qcfql_ros.cli import progress, train_data
from qcfql_ros.cli.main import main
from qcfql_ros.cli.memory import resident_bytes, size_in_bytes
from qcfql_ros.cli.train_data import Memory
from qcfql_ros.errors import ParameterError
from qcfql_ros.training.rehearsal import training_bytes


@pytest.fixture(scope='module')
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_bag(tmp_path_factory.mktemp('recorded') / 'bag')


@pytest.fixture
def bags(recorded: Path, tmp_path: Path) -> Path:
    for name in ('a', 'b'):
        shutil.copytree(recorded, tmp_path / 'bags' / name)
    return tmp_path / 'bags'


def test_a_folder_of_bags_is_read_once_and_then_from_what_was_kept(bags, tmp_path, capsys) -> None:
    assert main(words(bags, tmp_path / 'first', 40, '--log_every', 20)) == 0
    said = capsys.readouterr().out
    for name in ('a', 'b'):
        about = f'{bags}/{name}: 290 steps, 25 episodes, 25 segments of 1210 messages (decoded in'
        assert about in said
    assert '; held out: ' in said
    assert main(words(bags, tmp_path / 'second', 40, '--log_every', 20)) == 0
    said = capsys.readouterr()
    assert said.out.count('(kept from before)') == 2 and said.err == ''
    assert_same_state(*(tmp_path / run / 'last.safetensors' for run in ('first', 'second')))
    assert rows(tmp_path / 'first/training.csv') == rows(tmp_path / 'second/training.csv')
    shutil.rmtree(bags / 'a.qcfql_cache')
    shutil.rmtree(bags / 'b.qcfql_cache')
    both = ['--log_every', '20', '--no_cache', '--dataset_path', str(bags / 'a'), str(bags / 'b')]
    assert main(words(bags, tmp_path / 'third', 40, *both)) == 0
    assert_same_state(*(tmp_path / run / 'last.safetensors' for run in ('first', 'third')))
    assert sorted(path.name for path in bags.iterdir()) == ['a', 'b']


def test_what_a_bag_leaves_out_is_said_each_time(bags: Path, tmp_path: Path, capsys) -> None:
    tear(bags / 'a')
    for run in ('first', 'second'):
        assert main(words(bags, tmp_path / run, 2)) == 0
        said = capsys.readouterr()
        (line,) = (line for line in said.out.splitlines() if line.startswith(f'{bags}/a: '))
        assert '; not used: ' in line and 'dropped missing' in line
        assert f'{bags}/a: left out 1 stretch: ' in said.err
        assert ('kept from before' in line) == (run == 'second')


def test_all_unfit_bags_are_refused_at_once_before_anything_is_written(
    bags: Path, tmp_path: Path, capsys
) -> None:
    shutil.copytree(bags / 'a', bags / 'c')
    for name, other in (('a', 'f' * 64), ('c', 'e' * 64)):
        about = bags / name / 'metadata.yaml'
        about.write_text(about.read_text().replace(CONTRACT.hash, other))
    given = words(bags, tmp_path / 'out', 2)
    assert main(given) == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and error.count('was recorded under contract') == 2
    assert f'{bags}/a was' in error and f'{bags}/c was' in error and f'{bags}/b' not in error
    assert not (tmp_path / 'out').exists()
    assert not list(bags.glob('*.qcfql_cache'))


def test_rows_that_do_not_fit_are_said(bags: Path, tmp_path: Path, capsys) -> None:
    assert main(words(bags, tmp_path / 'out', 2, '--capacity', 100)) == 0
    said = capsys.readouterr().out
    assert 'warning: --capacity 100: the oldest ' in said


@pytest.mark.parametrize(
    ('text', 'size'),
    [('800', 800 << 20), ('1.5G', 3 << 29), ('64 MiB', 64 << 20), ('700mb', 700 << 20)],
)
def test_a_size_is_read_as_people_write_it(text: str, size: int) -> None:
    assert size_in_bytes(text) == size


@pytest.mark.parametrize('text', ['much', '-1', '0', '5T', ''])
def test_what_is_no_size_is_one_line(text: str, bags: Path, tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words(bags, tmp_path / 'out', 2, f'--memory-limit={text}'))
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert 'is no size; want one as 800M or 2G' in error and error.count('\n') == 1


def test_a_limit_below_what_training_takes_says_what_it_takes(bags, tmp_path, capsys) -> None:
    assert main(words(bags, tmp_path / 'out', 2, '--memory-limit', '20M')) == 2
    error = capsys.readouterr().err
    assert '--memory-limit 20M: training takes more before the first step' in error
    assert not (tmp_path / 'out').exists()


def test_steps_that_do_not_fit_name_the_capacity_that_does(monkeypatch) -> None:
    monkeypatch.setattr(train_data, 'resident_bytes', lambda: (100 << 20, 150 << 20))
    memory = Memory(200 << 20, lambda: 130 << 20)
    fits, fewer = (((200 - 130 - 32 * times) << 20) // 100 for times in (1, 2))
    assert memory.capacity(fits, 2_000_000, 100) == 2_000_000
    assert memory.capacity(10 * fits, fits, 100) == fits
    with pytest.raises(ParameterError) as caught:
        memory.capacity(fits + 1, 2_000_000, 100)
    assert f'{fits + 1} rows of 100 bytes do not fit' in str(caught.value)
    named = int(
        re.findall(r'or --capacity (\d+) to learn from the last ones', str(caught.value))[0]
    )
    assert abs(named - fewer) <= 1
    assert 'give at least --memory-limit 233M' in str(caught.value)
    # What reading left behind counts too.
    monkeypatch.setattr(train_data, 'resident_bytes', lambda: (110 << 20, 150 << 20))
    with pytest.raises(ParameterError, match='that training takes; give at least'):
        memory.capacity(fits, 2_000_000, 100)


def test_a_training_that_does_not_work_is_one_line() -> None:
    with pytest.raises(ParameterError, match=r'training does not work here: .*cuda9'):
        training_bytes('point_reach', AlgorithmConfig(6, 2), 'cuda9', False)


def peak_of(bag: Path, out: Path, *more: str) -> tuple[float, str]:
    """Run in a process of its own; return the MiB it took and what it said."""
    took = out.parent / 'report.json'
    given = words(bag, out, 2, '--json', took, *more)
    run = subprocess.run(
        [sys.executable, '-m', 'qcfql_ros.cli', *given],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(took.read_text())['peak_memory_mib'], run.stdout


def test_a_run_stays_within_its_limit_and_says_what_it_took(bags: Path, tmp_path: Path) -> None:
    peak, _ = peak_of(bags, tmp_path / 'first')
    assert 50 < peak < 4096
    limit = int(peak) + 300
    peak, said = peak_of(bags, tmp_path / 'second', '--memory-limit', f'{limit}M')
    assert peak <= limit and 'warning' not in said
    assert_same_state(*(tmp_path / run / 'last.safetensors' for run in ('first', 'second')))


def test_what_is_resident_grows_with_what_is_touched() -> None:
    now, peak = resident_bytes()
    held = bytearray(os.urandom(64 << 20))
    later, highest = resident_bytes()
    assert later - now > 60 << 20 and highest >= max(peak, later) - (1 << 20)
    assert len(held) == 64 << 20


def test_without_a_terminal_there_is_a_line_now_and_then(monkeypatch, capsys) -> None:
    now = [0.0]
    with progress.progress_of('reading', lambda: now[0]) as tell:
        for second in range(35):
            now[0] = float(second)
            tell(second / 100)
    assert capsys.readouterr().err.splitlines() == [
        'reading: 10 %, 1 min 30 s left',
        'reading: 20 %, 1 min 20 s left',
        'reading: 30 %, 1 min 10 s left',
    ]


BAR = """
from qcfql_ros.cli.progress import progress_of
now = [0.0]
with progress_of('reading', lambda: now[0]) as tell:
    now[0] = 30.0
    tell(0.25)
    import time; time.sleep(0.3)
    tell(1.0)
"""


def test_on_a_terminal_there_is_a_bar_with_the_time_left() -> None:
    ours, theirs = pty.openpty()
    run = subprocess.Popen(
        [sys.executable, '-c', BAR], stderr=theirs, env={**os.environ, 'TERM': 'xterm'}
    )
    os.close(theirs)
    shown = b''
    while True:
        try:
            read = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        shown += read
        if not read:
            break
    assert run.wait(60) == 0
    text = shown.decode()
    assert 'reading' in text and '25%' in text and '1 min 30 s left' in text
