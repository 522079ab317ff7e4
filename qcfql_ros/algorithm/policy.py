# SPDX-License-Identifier: Apache-2.0
"""The policy as the robot runs it: one file, one forward, one chunk.

A policy file is safetensors: the actor's weights, the normaliser, and JSON under the metadata key
``qcfql`` (`policy_info`). Nothing else is needed to act.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from qcfql_ros.algorithm.actors import make_actor
from qcfql_ros.algorithm.normalizer import Normalizer
from qcfql_ros.algorithm.policy_info import PolicyInfo
from qcfql_ros.errors import ModelError, ParameterError

MAX_HEADER_BYTES = 1 << 20


def policy_digest(tensors: dict[str, Tensor], info: PolicyInfo) -> str:
    """Return the SHA-256 of all that a plan depends on, as 64 hex digits.

    Over names, types, shapes and bytes of the tensors in name order, and what a best-of-N actor
    does with them.
    """
    digest = hashlib.sha256()
    if info.best_of_n is not None:
        digest.update(json.dumps(asdict(info.best_of_n), sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f'{name}|{tensor.dtype}|{tuple(tensor.shape)}|'.encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


class ChunkPolicy:
    """Plans chunks from observations.

    Args:
        network: the actor: (state, noise) to chunks; `actors.make_actor` makes it.
        normalizer: applied to observations before the network.
        info: the file's description.
        device: 'cpu' or 'cuda'.
    """

    def __init__(
        self,
        network: nn.Module,
        normalizer: Normalizer,
        info: PolicyInfo,
        device: str = 'cpu',
    ) -> None:
        self.info = info
        self.device = torch.device(device)
        self.network = network.to(self.device).eval().requires_grad_(False)
        self.normalizer = normalizer
        self._normalizer_on_device = normalizer.to(self.device)
        self.digest = policy_digest(self._tensors(), info)
        self._shape = (1, *info.noise_shape)

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f'policy.{k}': v for k, v in self.network.state_dict().items()}
        return {**tensors, **self.normalizer.tensors()}

    def check_samples(self, num_samples: int) -> None:
        """Check that a plan may draw that many candidates; 0, as trained, always may.

        Raises:
            ParameterError: there are no candidates, or a plan would take too long.
        """
        if num_samples == 0:
            return
        best_of_n = self.info.best_of_n
        if best_of_n is None:
            raise ParameterError(
                f'num_action_samples is {num_samples}, but policy {self.digest[:12]} plans one '
                'chunk and has no candidates to choose from; wanted 0'
            )
        try:
            about = replace(best_of_n, num_action_samples=num_samples)
            replace(self.info, best_of_n=about).check_work()
        except ModelError as error:
            raise ParameterError(f'num_action_samples is {num_samples}: {error}') from None

    def noise(self, seed: int, num_samples: int = 0) -> Tensor:
        """Return the standard normal z of `seed`, (1, k, action_dim), drawn on the CPU.

        For a best-of-N actor it is (1, N, k, action_dim), N `num_samples` unless that is 0.
        """
        shape = self._shape if not num_samples else (1, num_samples, *self._shape[2:])
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    @torch.inference_mode()
    def plan(
        self,
        observation: np.ndarray,
        seed: int,
        noise_scale: float = 1.0,
        num_samples: int = 0,
    ) -> np.ndarray:
        """Return a chunk, (k, action_dim) float32 in [-1, 1].

        Args:
            observation: (state_dim,) float32, as the contract decodes it.
            seed: of the chunk's noise; the same seed and observation give the same chunk.
            noise_scale: multiplies the noise; 0 plans from the mean of it.
            num_samples: candidates of a best-of-N actor; 0 as trained.

        Raises:
            ParameterError: `num_samples` is not for this policy.
        """
        self.check_samples(num_samples)
        # What set_num_threads was told reaches a thread only once it asks: until then it computes
        # on every core, whoever needs them, and with other rounding.
        torch.get_num_threads()
        state = torch.from_numpy(np.ascontiguousarray(observation, dtype=np.float32))[None]
        state = self._normalizer_on_device(state.to(self.device))
        noise = self.noise(seed, num_samples)
        if noise_scale != 1.0:
            noise *= noise_scale
        chunk = self.network(state, noise.to(self.device))
        return chunk.clamp_(-1.0, 1.0)[0].cpu().numpy()

    def to_bytes(self) -> bytes:
        """Return the policy file."""
        tensors = {k: v.detach().cpu().contiguous() for k, v in self._tensors().items()}
        return save_tensors(tensors, {'qcfql': self.info.to_json(), 'digest': self.digest})

    @classmethod
    def load(cls, source: str | Path | bytes, device: str = 'cpu') -> ChunkPolicy:
        """Load and check a policy file, given as a path or as its bytes.

        Raises:
            ModelError: missing, damaged, of another format, of wrong shapes, or not finite.
        """
        where = 'received policy' if isinstance(source, bytes) else str(source)
        if not isinstance(source, bytes):
            path = Path(source)
            if not path.is_file():
                raise ModelError(f'{path}: no such policy file; give the path of a .safetensors')
            try:
                source = path.read_bytes()
            except OSError as error:
                raise ModelError(f'{path}: cannot be read ({error})') from None
        # Nothing is allocated by what the header says before it is known to fit the bytes.
        try:
            header = _header(source)
            metadata = header.pop('__metadata__', {})
            if not isinstance(metadata, dict) or 'qcfql' not in metadata:
                raise ModelError(f'{where}: a safetensors file, but not a policy of qcfql_ros')
            info = PolicyInfo.from_json(metadata['qcfql'])
            _check_shapes(header, info, where)
            tensors = load_tensors(source)
        except (SafetensorError, ValueError, KeyError, RecursionError) as error:
            raise ModelError(f'{where}: not a readable safetensors file ({error})') from None
        for name, tensor in tensors.items():
            if tensor.dtype != torch.float32 or not bool(torch.isfinite(tensor).all()):
                raise ModelError(f'{where}: tensor {name} is not finite float32')
        if policy_digest(tensors, info) != metadata.get('digest'):
            raise ModelError(f'{where}: damaged, it does not have the digest it states')
        normalizer = Normalizer.from_tensors(tensors, info.state_dim)
        network = make_actor(info)
        weights = {k.removeprefix('policy.'): v for k, v in tensors.items() if '.' in k}
        weights = {k: v for k, v in weights.items() if not k.startswith('normalizer.')}
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            text = str(error).splitlines()[-1].strip()
            raise ModelError(f'{where}: weights do not fit the description ({text})') from None
        return cls(network, normalizer, info, device)

    @classmethod
    def random(cls, info: PolicyInfo, seed: int = 0, device: str = 'cpu') -> ChunkPolicy:
        """Return an untrained policy, for tests and benchmarks."""
        network = make_actor(info, torch.Generator().manual_seed(seed))
        return cls(network, Normalizer.identity(info.state_dim), info, device)


def _header(blob: bytes) -> dict[str, Any]:
    """Return the header of safetensors bytes (8 bytes of length, then JSON)."""
    length = int.from_bytes(blob[:8], 'little')
    if not 2 <= length <= min(len(blob) - 8, MAX_HEADER_BYTES):
        raise ValueError(f'header of {length} bytes in a file of {len(blob)}')
    header = json.loads(blob[8 : 8 + length])
    if not isinstance(header, dict):
        raise ValueError(f'its header is a {type(header).__name__}, not an object')
    return header


def _check_shapes(header: dict[str, Any], info: PolicyInfo, where: str) -> None:
    """Check the tensors that the header names against the description."""
    wanted = info.shapes()
    for name in sorted(wanted.keys() ^ header.keys()):
        fault = 'missing' if name in wanted else 'not part of one'
        raise ModelError(f'{where}: weights do not fit the description: {name!r} is {fault}')
    for name in sorted(wanted):
        entry = header[name] if isinstance(header[name], dict) else {}
        kind, shape = entry.get('dtype'), entry.get('shape')
        if kind != 'F32':
            raise ModelError(f'{where}: tensor {name!r} is {kind}, wanted F32')
        if shape != wanted[name]:
            raise ModelError(
                f'{where}: weights do not fit the description: {name!r} has shape {shape}, '
                f'wanted {wanted[name]}'
            )
