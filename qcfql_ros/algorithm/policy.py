# SPDX-License-Identifier: Apache-2.0
"""The policy as the robot runs it: one file, one forward, one chunk.

A policy file is safetensors: the noise-conditioned policy's weights, the normaliser, and JSON
under the metadata key ``qcfql``. Nothing else is needed to act.
"""

from __future__ import annotations

import hashlib
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
            values['hidden_dims'] = tuple(int(size) for size in values['hidden_dims'])
            info = cls(**values)
        except (ValueError, TypeError, KeyError) as error:
            raise ModelError(f'policy file: its description cannot be read ({error})') from None
        for entry in fields(cls):
            value = getattr(info, entry.name)
            wanted = {'int': int, 'str': str}.get(str(entry.type), tuple)
            if not isinstance(value, wanted):
                raise ModelError(f'policy file: {entry.name} is {value!r}, wanted {entry.type}')
        sizes = (info.state_dim, info.action_dim, info.action_chunk_size, *info.hidden_dims)
        if info.format != FORMAT or not all(0 < size <= 65536 for size in sizes):
            raise ModelError(f'policy file: format {info.format}, sizes {sizes} are not supported')
        return info


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
            source = path.read_bytes()
        try:
            metadata = _metadata(source)
            tensors = load_tensors(source)
        except (SafetensorError, ValueError, KeyError, UnicodeDecodeError) as error:
            raise ModelError(f'{where}: not a readable safetensors file ({error})') from None
        if 'qcfql' not in metadata:
            raise ModelError(f'{where}: a safetensors file, but not a policy of qcfql_ros')
        info = PolicyInfo.from_json(metadata['qcfql'])
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


def _metadata(blob: bytes) -> dict[str, Any]:
    """Return the metadata of safetensors bytes (8 bytes of length, then JSON)."""
    length = int.from_bytes(blob[:8], 'little')
    if not 2 <= length <= len(blob) - 8:
        raise ValueError(f'header of {length} bytes in a file of {len(blob)}')
    return json.loads(blob[8 : 8 + length]).get('__metadata__', {})
