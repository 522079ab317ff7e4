# SPDX-License-Identifier: Apache-2.0
"""One update of the authors' code in a file, under our names (``docs/verification.md``).

The file is an npz that ``tools/make_reference.py`` writes: settings, weights, batch and noise, and
what the authors' code (GitHub ColinQiyangLi/qc, ``agents/acfql.py``) made of them.
"""

from __future__ import annotations

import ast
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qcfql_ros.algorithm.batch import Batch, Noise
from qcfql_ros.algorithm.config import AlgorithmConfig, preset
from qcfql_ros.algorithm.networks import LAYER_NORM_EPS
from qcfql_ros.algorithm.update import Update
from qcfql_ros.errors import CheckpointError, ParameterError

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
_ACTORS = {'distill-ddpg': 'distilled', 'best-of-n': 'best_of_n'}
_REQUIRED: dict[str, type] = {
    'horizon_length': int,
    'action_dim': int,
    'num_qs': int,
    'hidden': tuple,
    'q_agg': str,
    'alpha': float,
    'discount': float,
    'flow_steps': int,
    'lr': float,
    'tau': float,
}
_OPTIONAL: dict[str, Any] = {
    'actor_type': 'distill-ddpg',
    'actor_num_samples': 32,
    'action_chunking': True,
    'layer_norm_eps': LAYER_NORM_EPS,
}


class ReferenceFile:
    """Settings, weights, batch, noise and results of one update of the authors' code.

    Args:
        path: of the npz.

    Raises:
        CheckpointError: no such file, no npz, or settings that cannot be read. Tensors are
            checked as they are asked for: one that is missing, of another shape or not finite
            raises too.
        ParameterError: a setting out of range.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._arrays = _read(path)
        self.settings = self._read_settings()
        chunked = self.settings['action_chunking']
        horizon, action_dim = self.settings['horizon_length'], self.settings['action_dim']
        self.chunk_shape = (horizon if chunked else 1, action_dim)
        observations = self._arrays.get('batch/observations', np.zeros(0))
        if observations.ndim != 2:
            raise self._error('batch/observations: wanted (batch, state_dim)')
        self.batch_size, self.state_dim = observations.shape
        self.config = self._config()

    def _config(self) -> AlgorithmConfig:
        """Return our settings for the reference's: preset `paper`, and what the file says."""
        said = self.settings
        values = {
            **preset('paper'),
            'state_dim': self.state_dim,
            'action_dim': said['action_dim'],
            'action_chunk_size': self.chunk_shape[0],
            'return_steps': said['horizon_length'],
            'num_critics': said['num_qs'],
            'critic_aggregation': said['q_agg'],
            'actor': _ACTORS[said['actor_type']],
            'num_action_samples': said['actor_num_samples'],
            'distillation_weight': said['alpha'],
            'discount': said['discount'],
            'critic_target_update_tau': said['tau'],
            'flow_matching_num_inference_steps': said['flow_steps'],
            'hidden_dims': said['hidden'],
            'learning_rate': said['lr'],
        }
        try:
            return AlgorithmConfig(**values)
        except ParameterError as error:
            raise ParameterError(f'{self.path}: settings: {error}') from None

    def update(self) -> Update:
        """Return an update with the reference's weights from before the step."""
        update = Update(self.config)
        with torch.no_grad():
            for name, parameter in update.networks.named_parameters():
                parameter.copy_(self.parameter('params', name, parameter))
        return update

    def parameter(self, kind: str, name: str, like: Tensor) -> Tensor:
        """Return the reference's tensor for our parameter `name`, in the shape of `like`.

        Args:
            kind: params, grads or updated.
            name: as `named_parameters` gives it, e.g. ``policy.network.biases.0``.
            like: our parameter.
        """
        network, _, part, index = name.split('.')
        layer, leaf = _PARTS[part]
        # Theirs has no axis of length 1 for the samples in an ensemble's biases.
        ensemble_bias = network.endswith('critic') and part != 'kernels'
        shape = (like.shape[0], like.shape[2]) if ensemble_bias else tuple(like.shape)
        key = f'{kind}/{_NETWORKS[network]}/{layer}_{index}/{leaf}'
        return self.tensor(key, *shape).reshape(like.shape)

    def batch(self) -> Batch:
        """Return the batch; windows over an episode's end have weight 0."""
        size, horizon = self.batch_size, self.settings['horizon_length']
        chunk = self.chunk_shape[0]
        actions = self.tensor('batch/actions', size, horizon, self.settings['action_dim'])
        rewards, masks, valid = (
            self.tensor(f'batch/{name}', size, horizon) for name in ('rewards', 'masks', 'valid')
        )
        after = self.tensor('batch/next_observations', size, horizon, self.state_dim)
        return Batch(
            state=self.tensor('batch/observations', size, self.state_dim),
            chunk=actions[:, :chunk],
            valid=valid[:, :chunk],
            tail_unknown=torch.zeros((size, chunk), dtype=torch.bool),
            reward=rewards[:, -1],
            bootstrap=masks[:, -1] * self.config.discount**horizon,
            next_state=after[:, -1],
            weight=valid[:, -1],
        )

    def noise(self) -> Noise:
        """Return the noise of the update."""
        policy = self.chunks('noise/policy')
        best_of_n = self.config.actor == 'best_of_n'
        count = self.config.num_action_samples
        target = self.chunks('noise/critic_next_action', *((count,) if best_of_n else ()))
        return Noise(
            flow_start=self.chunks('noise/flow_x0'),
            flow_time=self.tensor('noise/flow_t', self.batch_size, 1)[:, 0],
            policy=policy,
            next_policy=torch.zeros_like(policy) if best_of_n else target,
            candidates=target if best_of_n else None,
        )

    def candidates(self) -> Tensor:
        """Return the noise of best-of-n at the batch's states, (batch, N, chunk, action_dim)."""
        shape = self._arrays.get('noise/best_of_n', np.zeros(0)).shape
        return self.chunks('noise/best_of_n', shape[1] if len(shape) == 3 else 1)

    def chunks(self, key: str, *lead: int) -> Tensor:
        """Return flat chunks as (batch, *lead, chunk, action_dim)."""
        flat = self.tensor(key, self.batch_size, *lead, self.config.chunk_dim)
        return flat.reshape(self.batch_size, *lead, *self.chunk_shape)

    def tensor(self, key: str, *shape: int) -> Tensor:
        """Return one tensor, float32; raises CheckpointError unless it has this shape."""
        if key not in self._arrays:
            raise self._error(f'no {key!r}; want it in shape {shape}')
        array = self._arrays[key]
        if array.shape != shape:
            raise self._error(f'{key!r} has shape {array.shape}; wanted {shape}')
        if array.dtype.kind not in 'fiu' or not np.isfinite(array).all():
            raise self._error(f'{key!r} has entries that are no finite numbers')
        return torch.from_numpy(array.astype(np.float32))

    def _read_settings(self) -> dict[str, Any]:
        try:
            said = ast.literal_eval(str(self._arrays['settings']))
        except KeyError:
            raise self._error("no 'settings'; want a dictionary as text") from None
        except (ValueError, SyntaxError):
            said = None
        if not isinstance(said, dict):
            raise self._error("'settings' is no dictionary as text")
        unknown = [str(name) for name in said if name not in {**_REQUIRED, **_OPTIONAL}]
        if unknown:  # it may change the numbers in a way that we would not follow
            raise self._error(f'settings: {", ".join(unknown)} unknown here')
        settings = {**_OPTIONAL, **said}
        kinds = {**_REQUIRED, **{name: type(value) for name, value in _OPTIONAL.items()}}
        for name, kind in kinds.items():
            if name not in settings:
                raise self._error(f'settings: no {name!r}')
            value = settings[name]
            if kind is float and type(value) is int:
                settings[name] = float(value)
            elif type(value) is not kind:
                raise self._error(f'settings: {name} is {value!r}; wanted {kind.__name__}')
        return self._checked(settings)

    def _checked(self, settings: dict[str, Any]) -> dict[str, Any]:
        if not all(type(size) is int for size in settings['hidden']):
            raise self._error(f'settings: hidden is {settings["hidden"]}; wanted whole numbers')
        if settings['layer_norm_eps'] != LAYER_NORM_EPS:
            got = settings['layer_norm_eps']
            raise self._error(f'settings: layer_norm_eps is {got}; only {LAYER_NORM_EPS} is here')
        if settings['actor_type'] not in _ACTORS:
            got, known = settings['actor_type'], ', '.join(_ACTORS)
            raise self._error(f'settings: actor_type is {got!r}; wanted one of {known}')
        if settings['q_agg'] not in ('min', 'mean'):
            raise self._error(f'settings: q_agg is {settings["q_agg"]!r}; wanted min or mean')
        if settings['num_qs'] < 2:
            raise self._error(
                'settings: num_qs is below 2: with one critic the authors aggregate over the batch'
            )
        return settings

    def _error(self, what: str) -> CheckpointError:
        return CheckpointError(f'{self.path}: {what}')


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open('rb') as file:
            loaded = np.load(file)
            if not isinstance(loaded, np.lib.npyio.NpzFile):
                raise CheckpointError(f'{path}: a single array; wanted an npz of many')
            return {key: loaded[key] for key in loaded.files}
    except OSError as error:
        raise CheckpointError(f'{path}: {error.strerror or error}') from None
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise CheckpointError(f'{path}: no npz that can be read ({error})') from None
