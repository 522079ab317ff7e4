# SPDX-License-Identifier: Apache-2.0
"""`qcfql train`: each setting has a flag, and what cannot work is one line at the start."""

from pathlib import Path

import numpy as np
import pytest
import torch
from recorded_ticks import CONTRACT
from train_runs import record_bag, words

from qcfql_ros.algorithm.config import METHODS, AlgorithmConfig
from qcfql_ros.cli import train
from qcfql_ros.cli.main import Parser, main
from qcfql_ros.cli.train_data import Memory, load_data
from qcfql_ros.cli.train_settings import add_settings, chosen_settings, differences
from qcfql_ros.errors import ParameterError
from qcfql_ros.training.validation import Split


@pytest.fixture(scope='module')
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_bag(tmp_path_factory.mktemp('train') / 'bag')


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
    memory = Memory(None, int)
    training, _ = load_data(arguments, CONTRACT, config, Split(0.0, 0), memory)
    successes = 24 * 12
    assert training.steps == successes + 2
    assert int(np.sum(training.imitated)) == successes
