# SPDX-License-Identifier: Apache-2.0
"""What a policy file says about itself, checked where it is read."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from qcfql_ros.algorithm.config import AGGREGATIONS, AlgorithmConfig
from qcfql_ros.errors import ModelError

FORMAT = 1
MAX_SIZE = 65536
MAX_SAMPLES = 4096
MAX_LAYERS = 64
MAX_OPERATIONS = 2 * 10**10  # of one best-of-N plan: a second of one CPU core, or less
MAX_VALUES = 2**26  # that one layer of it computes: 256 MiB
MAX_PESSIMISM = 1000.0
MAX_COUNT = 1 << 53  # what a float64 of a message can count to


@dataclass(frozen=True)
class BestOfN:
    """An actor that samples the behaviour flow and lets the critics choose (QC, BFN).

    Attributes:
        num_action_samples: samples to choose from [N].
        flow_steps: Euler steps of the flow.
        num_critics: members of the ensemble.
        critic_layer_norm: LayerNorm in the critics.
        critic_aggregation: min, mean or mean_minus_std.
        pessimism: rho of mean_minus_std.
    """

    num_action_samples: int
    flow_steps: int
    num_critics: int
    critic_layer_norm: bool
    critic_aggregation: str
    pessimism: float

    def __post_init__(self) -> None:
        counts = (self.num_action_samples, self.flow_steps, self.num_critics)
        if not all(type(count) is int and 0 < count <= MAX_SAMPLES for count in counts):
            raise ModelError(f'policy file: best_of_n has counts {counts}: not supported')
        if self.critic_aggregation not in AGGREGATIONS or type(self.critic_layer_norm) is not bool:
            raise ModelError(f'policy file: {self}: not supported')
        # A NaN is between nothing, and 10**400 is no float but can be compared.
        between = type(self.pessimism) in (int, float) and 0 <= self.pessimism <= MAX_PESSIMISM
        if not between:
            raise ModelError(
                f'policy file: pessimism is {str(self.pessimism)[:32]}, wanted a number in '
                f'[0, {MAX_PESSIMISM:g}]'
            )


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
        best_of_n: what a best-of-N actor needs; None for the noise-conditioned policy.
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
    best_of_n: BestOfN | None = None

    @classmethod
    def of_config(cls, config: AlgorithmConfig, **about: Any) -> PolicyInfo:
        """Return the description of a policy trained with `config`; `about` gives the rest."""
        best_of_n = None
        if config.actor == 'best_of_n':
            best_of_n = BestOfN(
                config.num_action_samples,
                config.flow_matching_num_inference_steps,
                config.num_critics,
                config.critic_layer_norm,
                config.critic_aggregation,
                config.pessimism,
            )
        return cls(
            state_dim=config.state_dim,
            action_dim=config.action_dim,
            action_chunk_size=config.action_chunk_size,
            hidden_dims=config.hidden_dims,
            best_of_n=best_of_n,
            **about,
        )

    def to_json(self) -> str:
        """Return the text that `from_json` reads."""
        values = asdict(self)
        if self.best_of_n is None:  # a file that versions before this field can read
            del values['best_of_n']
        return json.dumps(values, sort_keys=True)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the noise behind one chunk."""
        shape = (self.action_chunk_size, self.action_dim)
        return shape if self.best_of_n is None else (self.best_of_n.num_action_samples, *shape)

    @classmethod
    def from_json(cls, text: str) -> PolicyInfo:
        """Parse; raises ModelError where a field is missing, unknown or of the wrong type."""
        try:
            values = json.loads(text)
            values['hidden_dims'] = tuple(values['hidden_dims'])
            if values.get('best_of_n') is not None:
                values['best_of_n'] = BestOfN(**values['best_of_n'])
            info = cls(**values)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ModelError(f'policy file: its description cannot be read ({error})') from None
        for entry in fields(cls):
            if entry.name == 'best_of_n':
                continue  # checked where it is made
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
        info.check_work()
        return info

    def check_work(self) -> None:
        """Refuse a best-of-N actor whose plans no robot has the time or the memory for.

        Raises:
            ModelError: names operations and values.
        """
        about = self.best_of_n
        if about is None:
            return
        sizes = {name: math.prod(shape) for name, shape in self.shapes().items()}
        flow = sum(n for name, n in sizes.items() if name.startswith('policy.behavior'))
        critic = sum(n for name, n in sizes.items() if name.startswith('policy.critic'))
        samples = about.num_action_samples
        operations = 2 * samples * (about.flow_steps * flow + critic)
        values = samples * about.num_critics * max(*self.hidden_dims, self.state_dim)
        if operations > MAX_OPERATIONS or values > MAX_VALUES:
            raise ModelError(
                f'one plan of {samples} samples, {about.flow_steps} flow steps and '
                f'{about.num_critics} critics would take {operations:.1g} operations and '
                f'{values:.1g} values a layer, more than {MAX_OPERATIONS:.1g} and '
                f'{MAX_VALUES:.1g}; take a lower num_action_samples'
            )

    def shapes(self) -> dict[str, list[int]]:
        """Return the shape of every tensor that the file must hold, by name."""
        chunk = self.action_chunk_size * self.action_dim
        shapes = {'normalizer.mean': [self.state_dim], 'normalizer.std': [self.state_dim]}
        if self.best_of_n is None:
            shapes |= self._perceptron('policy', self.state_dim + chunk, chunk)
            return shapes
        members = [self.best_of_n.num_critics]
        shapes |= self._perceptron('policy.behavior', self.state_dim + chunk + 1, chunk)
        shapes |= self._perceptron('policy.critic', self.state_dim + chunk, 1, members)
        if self.best_of_n.critic_layer_norm:
            for index, size in enumerate(self.hidden_dims):
                shapes[f'policy.critic.network.norm_scales.{index}'] = [*members, 1, size]
                shapes[f'policy.critic.network.norm_biases.{index}'] = [*members, 1, size]
        return shapes

    def _perceptron(
        self, name: str, inputs: int, outputs: int, members: list[int] | None = None
    ) -> dict[str, list[int]]:
        shapes = {}
        lead, broadcast = (members, [1]) if members else ([], [])
        layers = itertools.pairwise((inputs, *self.hidden_dims, outputs))
        for index, (fan_in, fan_out) in enumerate(layers):
            shapes[f'{name}.network.kernels.{index}'] = [*lead, fan_in, fan_out]
            shapes[f'{name}.network.biases.{index}'] = [*lead, *broadcast, fan_out]
        return shapes
