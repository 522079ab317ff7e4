# SPDX-License-Identifier: Apache-2.0
"""The authors' numbers, given to our networks under our names."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import torch

from qcfql_ros.algorithm.batch import Batch, Noise
from qcfql_ros.algorithm.config import AlgorithmConfig
from qcfql_ros.algorithm.update import Update

FILE = Path(__file__).parent / 'data' / 'reference_a.npz'
_NETWORKS = {
    'behavior': 'modules_actor_bc_flow/mlp',
    'policy': 'modules_actor_onestep_flow/mlp',
    'critic': 'modules_critic/value_net',
    'target_critic': 'modules_target_critic/value_net',
}
_PARTS = {
    'kernels': ('Dense', 'kernel'),
    'biases': ('Dense', 'bias'),
    'norm_scales': ('LayerNorm', 'scale'),
    'norm_biases': ('LayerNorm', 'bias'),
}


class Reference:
    """One update of the official code: weights, batch, noise and results."""

    def __init__(self) -> None:
        self.data = dict(np.load(FILE))
        self.settings = ast.literal_eval(str(self.data['settings']))

    def config(self) -> AlgorithmConfig:
        """Return our settings for the reference's."""
        return AlgorithmConfig(
            state_dim=self.data['batch/observations'].shape[1],
            action_dim=self.settings['action_dim'],
            action_chunk_size=self.settings['horizon_length'],
            num_critics=self.settings['num_qs'],
            critic_aggregation=self.settings['q_agg'],
            distillation_weight=self.settings['alpha'],
            discount=self.settings['discount'],
            critic_target_update_tau=self.settings['tau'],
            flow_matching_sigma=0.0,
            flow_matching_num_inference_steps=self.settings['flow_steps'],
            hidden_dims=self.settings['hidden'],
            learning_rate=self.settings['lr'],
        )

    def tensor(self, kind: str, name: str, shape: torch.Size) -> torch.Tensor:
        """Return the reference's tensor for our parameter `name`, e.g. policy.network.biases.0."""
        network, _, part, index = name.split('.')
        layer, leaf = _PARTS[part]
        key = f'{kind}/{_NETWORKS[network]}/{layer}_{index}/{leaf}'
        return torch.from_numpy(self.data[key]).reshape(shape)

    def update(self) -> Update:
        """Return an update with the reference's weights from before the step."""
        update = Update(self.config())
        with torch.no_grad():
            for name, parameter in update.networks.named_parameters():
                parameter.copy_(self.tensor('params', name, parameter.shape))
        return update

    def chunks(self, key: str) -> torch.Tensor:
        """Return flat chunks as (batch, chunk, action_dim)."""
        horizon, action_dim = self.settings['horizon_length'], self.settings['action_dim']
        return torch.from_numpy(self.data[key]).reshape(-1, horizon, action_dim)

    def batch(self) -> Batch:
        """Return the reference's batch; windows over an episode's end have weight 0."""
        data = {k: torch.from_numpy(v) for k, v in self.data.items() if k.startswith('batch/')}
        horizon = self.settings['horizon_length']
        actions = data['batch/actions']
        return Batch(
            state=data['batch/observations'],
            chunk=actions,
            valid=data['batch/valid'],
            tail_unknown=torch.zeros(actions.shape[:2], dtype=torch.bool),
            reward=data['batch/rewards'][:, -1],
            bootstrap=data['batch/masks'][:, -1] * self.settings['discount'] ** horizon,
            next_state=data['batch/next_observations'][:, -1],
            weight=data['batch/valid'][:, -1],
        )

    def noise(self) -> Noise:
        """Return the reference's noise."""
        return Noise(
            flow_start=self.chunks('noise/flow_x0'),
            flow_time=torch.from_numpy(self.data['noise/flow_t'])[:, 0],
            policy=self.chunks('noise/policy'),
            next_policy=self.chunks('noise/critic_next_action'),
        )
