# SPDX-License-Identifier: Apache-2.0
"""verify-reference: says what disagrees by name and by its exit status."""

import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

from qcfql_ros.cli.main import main

DATA = Path(__file__).parent / 'data'
A = DATA / 'reference_a.npz'


def verify(*arguments: object) -> int:
    return main(['verify-reference', *map(str, arguments)])


def failed(output: str) -> set[str]:
    """Return the items of a printed table that say FAILED."""
    lines = [line for line in output.splitlines() if 'FAILED' in line]
    return {re.split(r'\s{2,}', line.strip())[0] for line in lines}


def test_the_authors_numbers_are_met_and_reported(capsys, tmp_path) -> None:
    files = sorted(DATA.glob('reference_*.npz'))
    assert verify(*files, '--json', tmp_path / 'report.json') == 0
    output = capsys.readouterr().out
    assert not failed(output)
    assert f'{11 * len(files)} of {11 * len(files)} items agree' in output
    report = json.loads((tmp_path / 'report.json').read_text())
    assert report['failed'] == 0
    assert report['items'] == 11 * len(files)
    assert 0.0 < report['reference_a_gradients_error'] <= report['tolerance'] == 1e-5


@pytest.mark.parametrize(
    ('key', 'items'),
    [
        ('loss/critic/critic_loss', {'losses'}),
        ('loss/actor/distill_loss', {'losses'}),
        ('loss/total', {'total loss'}),
        ('updated/modules_target_critic/value_net/Dense_1/kernel', {'target critics'}),
        (
            'updated/modules_critic/value_net/LayerNorm_0/bias',
            {'Adam fed their gradients', 'whole step'},
        ),
        ('flow_actions', {'flow actions'}),
        ('policy_actions_unclipped', {'policy actions, unclipped'}),
        ('q', {'Q values'}),
        ('best_of_n_actions', {'best-of-n actions'}),
    ],
)
def test_one_altered_number_is_found_and_named(key, items, capsys, tmp_path) -> None:
    data = dict(np.load(A))
    largest = np.unravel_index(np.abs(data[key]).argmax(), data[key].shape)
    data[key][largest] *= np.float32(1.0 + 1e-4)
    np.savez(tmp_path / 'altered.npz', **data)
    assert verify(tmp_path / 'altered.npz', '--json', tmp_path / 'report.json') == 1
    assert failed(capsys.readouterr().out) == items
    assert json.loads((tmp_path / 'report.json').read_text())['failed'] == len(items)


def test_an_altered_gradient_is_found(capsys, tmp_path) -> None:
    data = dict(np.load(A))
    data['grads/modules_critic/value_net/Dense_0/kernel'][1, 3, 5] *= -1.0
    np.savez(tmp_path / 'altered.npz', **data)
    assert verify(A, tmp_path / 'altered.npz') == 1
    assert 'gradients' in failed(capsys.readouterr().out)


def test_another_choice_among_the_samples_is_found(capsys, tmp_path) -> None:
    data = dict(np.load(A))
    # The choice of state 0 given for state 1 is the nearest to another sample of state 1.
    data['best_of_n_actions'] = np.roll(data['best_of_n_actions'], 1, axis=0)
    np.savez(tmp_path / 'altered.npz', **data)
    assert verify(tmp_path / 'altered.npz') == 1
    assert failed(capsys.readouterr().out) == {'best-of-n actions', 'best-of-n choice'}


def test_a_tighter_tolerance_fails_and_a_looser_one_forgives(capsys, tmp_path) -> None:
    assert verify(A, '--tolerance', 1e-7) == 1
    assert 'Q values' in failed(capsys.readouterr().out)
    data = dict(np.load(A))
    data['q'] *= np.float32(1.0 + 1e-4)
    np.savez(tmp_path / 'altered.npz', **data)
    assert verify(tmp_path / 'altered.npz', '--tolerance', 1e-3) == 0


def text(path: Path) -> None:
    path.write_text('no numbers')


def empty(path: Path) -> None:
    path.write_bytes(b'')


def array(path: Path) -> None:
    with path.open('wb') as file:
        np.save(file, np.zeros(3))


def cut(path: Path) -> None:
    path.write_bytes(A.read_bytes()[:50_000])


def damaged(path: Path) -> None:
    content = bytearray(A.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def pickled(path: Path) -> None:
    np.savez(path, settings=np.array({'a': 1}, dtype=object))


def other_zip(path: Path) -> None:
    with zipfile.ZipFile(path, 'w') as file:
        file.writestr('settings', 'text')


@pytest.mark.parametrize(
    'write', [None, text, empty, array, cut, damaged, pickled, other_zip], ids=str
)
def test_a_file_that_cannot_be_read_ends_in_one_line_and_status_2(write, capsys, tmp_path) -> None:
    path = tmp_path / 'bad.npz'
    if write is not None:
        write(path)
    assert verify(path) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f'qcfql verify-reference: {path}: ')
    assert captured.err.count('\n') == 1
    assert captured.out == ''


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([A, '--tolerance', '0'], '--tolerance is 0.0; wanted above 0'),
        ([A, '--tolerance', 'nan'], '--tolerance is nan; wanted above 0'),
        ([A, A], '2 files are named reference_a'),
    ],
    ids=str,
)
def test_arguments_that_make_no_sense_end_in_status_2(arguments, message, capsys) -> None:
    assert verify(*arguments) == 2
    assert message in capsys.readouterr().err
