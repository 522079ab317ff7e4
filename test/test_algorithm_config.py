# SPDX-License-Identifier: Apache-2.0
"""Settings: presets and methods in one word each, and what is refused."""

from __future__ import annotations

from dataclasses import MISSING, fields

import pytest

from qcfql_ros.algorithm.config import METHODS, PRESETS, AlgorithmConfig, method, preset
from qcfql_ros.errors import ParameterError

SETTINGS = {e.name: e.default for e in fields(AlgorithmConfig) if e.default is not MISSING}


@pytest.mark.parametrize(
    ('name', 'wanted'),
    [
        ('long_horizon', (4, 10, 1.0)),
        ('short', (2, 5, 1.0)),
        ('complex', (8, 20, 2.0)),
        ('paper', (5, 2, 100.0)),
    ],
)
def test_the_recommended_settings_are_one_word(name: str, wanted: tuple) -> None:
    config = AlgorithmConfig(3, 2, **preset(name))
    assert (config.action_chunk_size, config.num_critics, config.distillation_weight) == wanted


def test_paper_leaves_nothing_to_our_defaults() -> None:
    assert set(PRESETS['paper']) == set(SETTINGS)


@pytest.mark.parametrize('name', METHODS)
@pytest.mark.parametrize('base', PRESETS)
def test_every_method_goes_over_every_preset(base: str, name: str) -> None:
    config = AlgorithmConfig(3, 2, **(preset(base) | method(name)))
    assert AlgorithmConfig.from_dict(config.to_dict()) == config
    assert (config.window_steps > config.action_chunk_size) == (name == 'fql_n')


def test_an_unknown_word_is_refused_with_the_nearest() -> None:
    with pytest.raises(ParameterError, match="preset 'papr' is unknown; did you mean 'paper'"):
        preset('papr')
    with pytest.raises(ParameterError, match="method 'fqln' is unknown; did you mean 'fql_n'"):
        method('fqln')
    with pytest.raises(ParameterError, match="unknown setting 'num_critic'; did you mean 'num_cr"):
        AlgorithmConfig.from_dict({'state_dim': 3, 'action_dim': 2, 'num_critic': 4})


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'action_chunk_size': 0}, 'action_chunk_size: got 0, wanted at least 1'),
        ({'return_steps': 3}, 'return_steps: got 3, wanted 0 or at least 4'),
        ({'critic_aggregation': 'max'}, 'critic_aggregation'),
        ({'actor': 'bestofn'}, 'actor'),
        ({'behavior_weighting': 'none'}, 'behavior_weighting'),
        ({'behavior_temperature': 0.0}, 'behavior_temperature'),
        ({'discount': 1.1}, 'discount'),
        ({'critic_target_update_tau': 0.0}, 'critic_target_update_tau'),
        ({'flow_matching_sigma': 1.0}, 'flow_matching_sigma'),
        ({'distillation_weight': float('nan')}, 'distillation_weight'),
        ({'learning_rate': 0.0}, 'learning_rate'),
        ({'num_action_samples': 0}, 'num_action_samples'),
        ({'window_sampling': 'reference'}, 'set terminal_windows to false'),
        ({'target_update': 'never'}, 'target_update'),
        ({'adam_bias_correction': 'none'}, 'adam_bias_correction'),
    ],
)
def test_a_wrong_value_is_named(changes: dict, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        AlgorithmConfig(3, 2, **changes)
