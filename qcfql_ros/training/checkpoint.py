# SPDX-License-Identifier: Apache-2.0
"""Everything a run needs to go on, in one safetensors file that is replaced atomically."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from qcfql_ros.algorithm.actors import actor_weights
from qcfql_ros.algorithm.config import AlgorithmConfig
from qcfql_ros.algorithm.normalizer import Normalizer
from qcfql_ros.algorithm.policy import ChunkPolicy
from qcfql_ros.algorithm.policy_info import PolicyInfo
from qcfql_ros.algorithm.update import Update
from qcfql_ros.errors import CheckpointError
from qcfql_ros.training.durable_file import replace_file

FORMAT = 1


@dataclass
class TrainingState:
    """What moves during training.

    Attributes:
        update: networks, optimizer, noise generator and the numbers of updates.
        normalizer: of the observations.
        sampler: the generator that draws windows.
        contract_name: of the robot's contract.
        contract_hash: of the contract.
        environment_steps: steps of practice seen by this training.
        policy_version: of the newest policy that was published.
        notes: free facts for the log (data, seed, command).
        remark: what a person should know of how the state was loaded; not saved.
    """

    update: Update
    normalizer: Normalizer
    sampler: np.random.Generator
    contract_name: str
    contract_hash: str
    environment_steps: int = 0
    policy_version: int = 0
    notes: dict[str, Any] = field(default_factory=dict)
    remark: str = ''

    @classmethod
    def start(
        cls,
        config: AlgorithmConfig,
        contract_name: str,
        contract_hash: str,
        normalizer: Normalizer | None = None,
        seed: int = 0,
        device: str = 'cpu',
    ) -> TrainingState:
        """Return a fresh state."""
        normalizer = Normalizer.identity(config.state_dim) if normalizer is None else normalizer
        update = Update(config, seed, device)
        sampler = np.random.default_rng(seed)
        return cls(update, normalizer, sampler, contract_name, contract_hash)

    def policy(self) -> ChunkPolicy:
        """Return a copy of the present policy as the robot runs it."""
        config = self.update.config
        info = PolicyInfo.of_config(
            config,
            contract_name=self.contract_name,
            contract_hash=self.contract_hash,
            version=self.policy_version,
            updates=self.update.count,
            environment_steps=self.environment_steps,
        )
        copy = ChunkPolicy.random(info)
        copy.network.load_state_dict(actor_weights(self.update.networks, info))
        return ChunkPolicy(copy.network, self.normalizer.to('cpu'), info)

    def save(self, path: str | Path) -> None:
        """Write the state to `path`, replacing what was there only when it is whole."""
        tensors = self._tensors()
        about = {
            'format': FORMAT,
            'config': self.update.config.to_dict(),
            'updates': self.update.count,
            'behavior_updates': self.update.behavior_count,
            'distillation_weight': self.update.distillation_weight,
            'environment_steps': self.environment_steps,
            'policy_version': self.policy_version,
            'contract_name': self.contract_name,
            'contract_hash': self.contract_hash,
            'sampler': self.sampler.bit_generator.state,
            'generator_device': self.update.generator.device.type,
            'notes': self.notes,
        }
        metadata = {'qcfql_state': json.dumps(about)}
        replace_file(Path(path), lambda file: save_file(tensors, file, metadata))

    def _tensors(self) -> dict[str, Tensor]:
        named = dict(self.update.networks.named_parameters())
        tensors = {f'networks.{name}': value.detach() for name, value in named.items()}
        for name, parameter in named.items():
            for key, value in self.update.optimizer.state.get(parameter, {}).items():
                tensors[f'adam.{key}.{name}'] = value
        tensors['generator'] = self.update.generator.get_state()
        tensors.update(self.normalizer.tensors())
        return {name: value.cpu().contiguous() for name, value in tensors.items()}

    @classmethod
    def load(cls, path: str | Path, device: str = 'cpu') -> TrainingState:
        """Read a state; raises CheckpointError where it is missing, damaged or does not fit."""
        path = Path(path)
        if not path.is_file():
            raise CheckpointError(f'{path}: no such training state; give a file that train wrote')
        try:
            with safe_open(path, 'pt') as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            about = json.loads(metadata['qcfql_state'])
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise CheckpointError(
                f'{path}: not a training state of qcfql_ros ({type(error).__name__}: {error})'
            ) from None
        if about.get('format') != FORMAT:
            raise CheckpointError(f'{path}: format {about.get("format")}, wanted {FORMAT}')
        config = AlgorithmConfig.from_dict(about['config'])
        update = Update(config, 0, device)
        here = update.device.type
        saved_here = about.get('generator_device', here) == here  # older states: by size alone
        noise_goes_on = _restore(path, update, tensors, saved_here)
        update.count = about['updates']
        update.behavior_count = about.get('behavior_updates', 0)  # older states have none
        update.distillation_weight = about['distillation_weight']
        sampler = np.random.default_rng()
        sampler.bit_generator.state = about['sampler']
        return cls(
            update,
            Normalizer.from_tensors(tensors, config.state_dim),
            sampler,
            about['contract_name'],
            about['contract_hash'],
            about['environment_steps'],
            about['policy_version'],
            about['notes'],
            '' if noise_goes_on else f'saved on another device, now {here}: noise is seeded anew',
        )


def _restore(path: Path, update: Update, tensors: dict[str, Tensor], saved_here: bool) -> bool:
    """Put networks, Adam's moments and the generator back; see `_continue_generator`."""
    try:
        with torch.no_grad():
            for name, parameter in update.networks.named_parameters():
                parameter.copy_(tensors[f'networks.{name}'])
                keys = ('step', 'exp_avg', 'exp_avg_sq')
                moments = {key: tensors.get(f'adam.{key}.{name}') for key in keys}
                if parameter.requires_grad and moments['exp_avg'] is not None:
                    update.optimizer.state[parameter] = {
                        key: value.to(parameter.device).clone()
                        for key, value in moments.items()
                        if value is not None
                    }
        return _continue_generator(update.generator, tensors['generator'], saved_here)
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(f'{path}: tensors do not fit the settings ({error})') from None


def _continue_generator(generator: torch.Generator, saved: Tensor, saved_here: bool) -> bool:
    """Put `saved` back and return True; where it is of another device, seed from its bytes.

    A generator of a GPU and one of a CPU have states of different sizes and meanings.
    """
    if saved_here and saved.numel() == generator.get_state().numel():
        generator.set_state(saved)
        return True
    digest = hashlib.sha256(saved.numpy().tobytes()).digest()
    generator.manual_seed(int.from_bytes(digest[:7], 'little'))
    return False
