# SPDX-License-Identifier: Apache-2.0
"""Our update reproduces the authors' code, number by number, and the comparison can fail."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch

from qcfql_ros.algorithm.reference_comparison import compare, error
from qcfql_ros.algorithm.reference_file import ReferenceFile
from qcfql_ros.errors import CheckpointError, ParameterError

DATA = Path(__file__).parent / 'data'
FILES = sorted(DATA.glob('reference_*.npz'))
A = DATA / 'reference_a.npz'
ITEMS = {
    'losses': 1e-5,
    'total loss': 1e-5,
    'gradients': 1e-5,
    'target critics': 1e-5,
    'flow actions': 1e-5,
    'policy actions, unclipped': 1e-5,
    'Q values': 1e-5,
    'best-of-n actions': 1e-5,
    'best-of-n choice': 0.0,
    'Adam fed their gradients': 1e-6,
    'whole step': 1e-6,
}


def failing(reference: ReferenceFile) -> set[str]:
    return {item.name for item in compare(reference) if not item.agrees}


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_every_item_of_every_file_agrees(path: Path) -> None:
    items = {item.name: item for item in compare(ReferenceFile(path))}
    assert list(items) == list(ITEMS)
    for name, limit in ITEMS.items():
        assert items[name].error <= limit, items[name]


def test_the_files_cover_each_kind_of_agent() -> None:
    configs = [ReferenceFile(path).config for path in FILES]
    assert {config.critic_aggregation for config in configs} == {'mean', 'min'}
    assert {config.actor for config in configs} == {'distilled', 'best_of_n'}
    assert any(config.window_steps > config.action_chunk_size for config in configs)
    assert len({config.hidden_dims for config in configs}) > 1


@pytest.mark.parametrize('path', FILES[1:], ids=lambda path: path.stem)
def test_our_batches_hold_terminations_and_truncations_at_every_position(path: Path) -> None:
    data = np.load(path)
    masks, terminals = data['batch/masks'], data['batch/terminals']
    horizon = masks.shape[1]
    first = np.where(terminals.any(1), terminals.argmax(1), horizon)
    for position in range(horizon):
        assert set(masks[first == position, position]) == {0.0, 1.0}
    assert (first == horizon).any()


@pytest.mark.parametrize(
    ('change', 'items'),
    [
        ({'target_update': 'after'}, {'target critics'}),
        ({'critic_target_update_tau': 0.0051}, {'target critics'}),
        ({'adam_bias_correction': 'exact'}, {'Adam fed their gradients', 'whole step'}),
        ({'learning_rate': 3.01e-4}, {'Adam fed their gradients', 'whole step'}),
        ({'critic_aggregation': 'min'}, {'losses', 'gradients', 'best-of-n choice'}),
        ({'discount': 0.98}, {'losses', 'total loss', 'gradients'}),
        ({'flow_matching_sigma': 0.001}, {'losses', 'gradients'}),
        ({'distillation_weight': 101.0}, {'losses', 'gradients'}),
        ({'normalize_q_loss': True}, {'losses', 'gradients'}),
    ],
    ids=str,
)
def test_each_setting_that_changes_the_numbers_is_noticed(change, items) -> None:
    reference = ReferenceFile(A)
    reference.config = reference.config.with_changes(**change)
    assert items <= failing(reference)


def test_the_error_is_relative_to_the_largest_number_and_nan_is_no_agreement(tmp_path) -> None:
    theirs = torch.tensor([0.0, -4.0])
    assert error(torch.tensor([1.0, -4.0]), theirs) == 0.25
    assert error(torch.zeros(2), torch.zeros(2)) == 0.0
    reference = ReferenceFile(A)
    reference.config = reference.config.with_changes(distillation_weight=1e300)
    assert 'total loss' in failing(reference)


def altered(path: Path, **arrays) -> Path:
    """Write reference_a with arrays replaced, or left out where None; a__b is for a/b."""
    changes = {name.replace('__', '/'): value for name, value in arrays.items()}
    data = {**np.load(A), **changes}
    np.savez(path, **{name: value for name, value in data.items() if value is not None})
    return path


def settings(**changes) -> np.ndarray:
    """Return the settings of reference_a with changes; None leaves one out."""
    said = {**ast.literal_eval(str(np.load(A)['settings'])), **changes}
    return np.array(str({name: value for name, value in said.items() if value is not None}))


@pytest.mark.parametrize(
    ('arrays', 'message'),
    [
        ({'q': None}, r"no 'q'; want it in shape \(2, 16\)"),
        ({'q': np.zeros((16, 2))}, r"'q' has shape \(16, 2\); wanted \(2, 16\)"),
        ({'loss__total': np.array(np.nan)}, 'no finite numbers'),
        ({'batch__rewards': np.zeros(16)}, r'wanted \(16, 3\)'),
        ({'batch__observations': None}, 'batch/observations: wanted'),
        ({'noise__best_of_n': np.zeros((16, 6))}, 'noise/best_of_n'),
        ({'settings': None}, "no 'settings'"),
        ({'settings': np.array('horizon 3')}, 'no dictionary as text'),
        ({'settings': settings(tau=None)}, "settings: no 'tau'"),
        ({'settings': settings(hidden=(32,))}, 'Dense_1/kernel'),
        ({'settings': settings(hidden=('32', 32))}, 'wanted whole numbers'),
        ({'settings': settings(num_qs=2.0)}, 'num_qs is 2.0; wanted int'),
        ({'settings': settings(num_qs=1)}, 'aggregate over the batch'),
        ({'settings': settings(q_agg='max')}, "q_agg is 'max'; wanted min or mean"),
        ({'settings': settings(actor_type='sac')}, "actor_type is 'sac'; wanted one of"),
        ({'settings': settings(weight_decay=0.1)}, 'weight_decay unknown here'),
        ({'settings': settings(layer_norm_eps=1e-5)}, 'only 1e-06 is here'),
    ],
    ids=str,
)
def test_a_file_that_does_not_fit_is_refused_in_one_line(tmp_path, arrays, message) -> None:
    path = altered(tmp_path / 'x.npz', **arrays)
    with pytest.raises(CheckpointError, match=message) as caught:
        compare(ReferenceFile(path))
    assert str(caught.value).startswith(str(path))
    assert '\n' not in str(caught.value)


def test_a_setting_out_of_range_names_the_file(tmp_path) -> None:
    path = altered(tmp_path / 'x.npz', settings=settings(tau=2.0))
    with pytest.raises(ParameterError, match=r'x\.npz: settings: critic_target_update_tau'):
        ReferenceFile(path)
