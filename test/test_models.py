# SPDX-License-Identifier: Apache-2.0
"""The shipped policies load, fit their contract, and their cards tell what they are."""

from pathlib import Path

import numpy as np
import pytest

from qcfql_ros.algorithm.policy import ChunkPolicy
from qcfql_ros.cli.shipped_models import find_model
from qcfql_ros.contract import load_contract
from qcfql_ros.training.setup import load_state

MODELS = Path(__file__).parents[1] / 'models'
NAMES = ('ur5e_cube_offline', 'ur5e_cube_practised')


@pytest.mark.parametrize('name', NAMES)
def test_a_shipped_policy_fits_its_contract_and_plans(name: str) -> None:
    contract = load_contract('ur5e_cube')
    policy = ChunkPolicy.load(find_model(name).policy)
    assert policy.info.contract_hash == contract.hash
    chunk = policy.plan(np.zeros(contract.state_dim, np.float32), seed=0)
    assert chunk.shape == (policy.info.action_chunk_size, contract.action.dim)
    assert np.isfinite(chunk).all() and np.abs(chunk).max() <= 1.0


@pytest.mark.parametrize('name', NAMES)
def test_the_card_names_the_policy_that_lies_beside_it(name: str) -> None:
    policy = ChunkPolicy.load(find_model(name).policy)
    card = (MODELS / name / 'README.md').read_text()
    assert policy.digest in card
    for heading in ('Data', 'Made with', 'Success'):
        assert f'## {heading}' in card


def test_the_offline_model_brings_the_state_to_go_on_from() -> None:
    files = find_model('ur5e_cube_offline')
    assert files.state is not None
    state = load_state(files.state, load_contract('ur5e_cube'))
    assert state.policy().digest == ChunkPolicy.load(files.policy).digest
    assert files.policy.stat().st_size < 3e6
    assert files.state.stat().st_size <= 30e6
