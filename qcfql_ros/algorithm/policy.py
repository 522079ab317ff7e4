# SPDX-License-Identifier: Apache-2.0
"""The policy as the robot runs it: one file, one forward, one chunk.

A policy file is safetensors: the noise-conditioned policy's weights, the normaliser, and JSON
under the metadata key ``qcfql``. Nothing else is needed to act.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from qcfql_ros.algorithm.networks import NoiseConditionedPolicy
from qcfql_ros.algorithm.normalizer import Normalizer
from qcfql_ros.errors import ModelError

FORMAT = 1
MAX_HEADER_BYTES = 1 << 20
MAX_SIZE = 65536
MAX_LAYERS = 64
MAX_COUNT = 1 << 53  # what a float64 of a message can count to


@dataclass(frozen=True)
class PolicyInfo:
    """What a policy file says about itself.

    Attributes:
        contract_name: name of the robot's contract.
        contract_hash: hash of the contract the policy was trained for.
        state_dim: size of the observation.
        action_dim: size of an action row.
        action_chunk_size: rows in a chunk.
        hidden_dims: hidden layer sizes.
        version: counts the policies of one training run, from 0.
        updates: updates behind this policy.
        environment_steps: steps of practice behind this policy.
        format: of the file.
    """

    contract_name: str
    contract_hash: str
    state_dim: int
    action_dim: int
    action_chunk_size: int
    hidden_dims: tuple[int, ...] = (256, 256, 256)
    version: int = 0
    updates: int = 0
    environment_steps: int = 0
    format: int = FORMAT

    @classmethod
    def from_json(cls, text: str) -> PolicyInfo:
        """Parse; raises ModelError where a field is missing, unknown or of the wrong type."""
        try:
            values = json.loads(text)
            values['hidden_dims'] = tuple(values['hidden_dims'])
            info = cls(**values)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ModelError(f'policy file: its description cannot be read ({error})') from None
        for entry in fields(cls):
            value = getattr(info, entry.name)
            wanted = {'int': int, 'str': str}.get(str(entry.type), tuple)
            if type(value) is not wanted:  # a bool is no int here
                raise ModelError(f'policy file: {entry.name} is {value!r}, wanted {entry.type}')
        sizes = (info.state_dim, info.action_dim, info.action_chunk_size, *info.hidden_dims)
        fits = 1 <= len(info.hidden_dims) <= MAX_LAYERS
        if not fits or not all(type(size) is int and 0 < size <= MAX_SIZE for size in sizes):
            raise ModelError(f'policy file: sizes {sizes} are not supported')
        counts = (info.version, info.updates, info.environment_steps)
        if info.format != FORMAT or not all(0 <= count <= MAX_COUNT for count in counts):
            raise ModelError(f'policy file: format {info.format}, counts {counts}: not supported')
        return info

    def shapes(self) -> dict[str, list[int]]:
        """Return the shape of every tensor that the file must hold, by name."""
        chunk = self.action_chunk_size * self.action_dim
        layers = itertools.pairwise((self.state_dim + chunk, *self.hidden_dims, chunk))
        shapes = {'normalizer.mean': [self.state_dim], 'normalizer.std': [self.state_dim]}
        for index, (fan_in, fan_out) in enumerate(layers):
            shapes[f'policy.network.kernels.{index}'] = [fan_in, fan_out]
            shapes[f'policy.network.biases.{index}'] = [fan_out]
        return shapes


def tensor_digest(tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256 over names, types, shapes and bytes, in name order, as 64 hex digits."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f'{name}|{tensor.dtype}|{tuple(tensor.shape)}|'.encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


class ChunkPolicy:
    """Plans chunks from observations.

    Args:
        network: the noise-conditioned policy.
        normalizer: applied to observations before the network.
        info: the file's description.
        device: 'cpu' or 'cuda'.
    """

    def __init__(
        self,
        network: NoiseConditionedPolicy,
        normalizer: Normalizer,
        info: PolicyInfo,
        device: str = 'cpu',
    ) -> None:
        self.info = info
        self.device = torch.device(device)
        self.network = network.to(self.device).eval().requires_grad_(False)
        self.normalizer = normalizer
        self._normalizer_on_device = normalizer.to(self.device)
        self.digest = tensor_digest(self._tensors())
        self._shape = (1, info.action_chunk_size, info.action_dim)

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f'policy.{k}': v for k, v in self.network.state_dict().items()}
        return {**tensors, **self.normalizer.tensors()}

    def noise(self, seed: int) -> Tensor:
        """Return the standard normal z of `seed`, (1, k, action_dim), drawn on the CPU."""
        return torch.randn(self._shape, generator=torch.Generator().manual_seed(seed))

    @torch.inference_mode()
    def plan(self, observation: np.ndarray, seed: int) -> np.ndarray:
        """Return a chunk, (k, action_dim) float32 in [-1, 1].

        Args:
            observation: (state_dim,) float32, as the contract decodes it.
            seed: of the chunk's noise; the same seed and observation give the same chunk.
        """
        state = torch.from_numpy(np.ascontiguousarray(observation, dtype=np.float32))[None]
        state = self._normalizer_on_device(state.to(self.device))
        chunk = self.network(state, self.noise(seed).to(self.device))
        return chunk.clamp_(-1.0, 1.0)[0].cpu().numpy()

    def to_bytes(self) -> bytes:
        """Return the policy file."""
        tensors = {k: v.detach().cpu().contiguous() for k, v in self._tensors().items()}
        description = json.dumps(asdict(self.info), sort_keys=True)
        return save_tensors(tensors, {'qcfql': description, 'digest': self.digest})

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
        if tensor_digest(tensors) != metadata.get('digest'):
            raise ModelError(f'{where}: damaged, its tensors do not have the digest it states')
        normalizer = Normalizer.from_tensors(tensors, info.state_dim)
        shape = (info.state_dim, info.action_dim, info.action_chunk_size, info.hidden_dims)
        network = NoiseConditionedPolicy(*shape)
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
        generator = torch.Generator().manual_seed(seed)
        shape = (info.state_dim, info.action_dim, info.action_chunk_size, info.hidden_dims)
        network = NoiseConditionedPolicy(*shape, generator)
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
