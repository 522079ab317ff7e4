# SPDX-License-Identifier: Apache-2.0
"""Compute recorded chunks again and compare them with what was planned.

From the sensor messages in the bag at the stamps that each chunk names, the policy file kept under
its digest, and the recorded seed. On the machine that recorded, with the same device, torch and
threads, the result is the same to the bit. The exit status is 0 if every chunk was compared and is
within 1e-5, 1 if not.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qcfql_ros.cli.report import Value, add_json_argument, write_report
from qcfql_ros.contract import load_contract
from qcfql_ros.contract.schema import Contract
from qcfql_ros.data.bag_metadata import CONTRACT, CONTRACT_HASH, NAMESPACE
from qcfql_ros.data.reader import bag_custom_data
from qcfql_ros.data.recorded_chunks import RecordedChunk, recorded_chunks
from qcfql_ros.errors import BagError, ContractError, ModelError, ParameterError

if TYPE_CHECKING:
    from qcfql_ros.algorithm.policy import ChunkPolicy

TOLERANCE = 1e-5
DIFFERS = 1
SHOWN = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        'recording', type=Path, metavar='RUN_OR_BAG', help='folder of a run, or a bag'
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument('--chunk', type=int, metavar='N', help='only the chunk of this number')
    which.add_argument('--all', action='store_true', help='all chunks (the default)')
    parser.add_argument('--policies', type=Path, metavar='DIR', help='policies/ beside the bag')
    parser.add_argument('--contract', help="name or path; by default of the bag's own name")
    parser.add_argument('--device', default='cpu', choices=('cpu', 'cuda'))
    parser.add_argument(
        '--threads',
        type=int,
        default=1,
        help='CPU threads of torch, as the node had (its parameter threads)',
    )
    add_json_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Compare; see the module's text."""
    import torch

    if not 1 <= arguments.threads <= 256:
        raise ParameterError(f'--threads is {arguments.threads}; wanted 1 to 256')
    if arguments.device == 'cuda' and not torch.cuda.is_available():
        raise ParameterError('--device is cuda, but torch finds no GPU; take cpu')
    torch.set_num_threads(arguments.threads)
    bag, beside = find_bag(arguments.recording)
    about = bag_custom_data(bag)
    name, digest = about.get(CONTRACT, ''), about.get(CONTRACT_HASH, '')
    contract = _contract(arguments.contract, name, digest, bag)
    policies = Policies(arguments.policies or beside, arguments.device, contract)
    chunks = recorded_chunks(bag, contract, about.get(NAMESPACE, '').strip('/'))
    if arguments.chunk is not None:
        chunks = (chunk for chunk in chunks if chunk.record.chunk == arguments.chunk)
    comparison = compare(chunks, policies)
    if not comparison.chunks:
        what = 'chunks' if arguments.chunk is None else f'chunk {arguments.chunk}'
        raise BagError(f'{bag} holds no {what} on topic policy/chunk')
    device = arguments.device
    if device == 'cuda':
        device = f'cuda ({torch.cuda.get_device_name()})'
    report: dict[str, Value] = {
        'bag': str(bag),
        'contract_hash': contract.hash,
        'chunks': comparison.chunks,
        'compared': comparison.compared,
        'bit_exact': comparison.bit_exact,
        'largest_difference': comparison.largest,
        'tolerance': TOLERANCE,
        'policies': len(policies.loaded),
        'device': device,
        'torch': torch.__version__,
        'threads': arguments.threads,
        'machine': platform.machine(),
        'agrees': comparison.agrees,
    }
    write_report(arguments.json, report)
    print(comparison.text(policies))
    print(f'on {device}, torch {torch.__version__}, {arguments.threads} threads, batches of 1')
    return 0 if comparison.agrees else DIFFERS


def find_bag(recording: Path) -> tuple[Path, Path]:
    """Return the bag of a run folder, or the bag itself, and the folder of its policies."""
    bag = recording / 'bag' if (recording / 'bag').is_dir() else recording
    return bag, bag.absolute().parent / 'policies'


class Policies:
    """The policy files kept with a recording, loaded once each.

    Attributes:
        loaded: by digest.
    """

    def __init__(self, folder: Path, device: str, contract: Contract) -> None:
        self.folder = folder
        self.loaded: dict[str, ChunkPolicy] = {}
        self._device = device
        self._contract = contract

    def find(self, digest: str) -> ChunkPolicy:
        """Return the policy of `digest`.

        Raises:
            ModelError: it is not there, damaged, or another one.
        """
        if digest not in self.loaded:
            self.loaded[digest] = self._load(digest)
        return self.loaded[digest]

    def _load(self, digest: str) -> ChunkPolicy:
        from qcfql_ros.algorithm.policy import ChunkPolicy

        path = self.folder / f'{digest}.safetensors'
        if not path.is_file():
            raise ModelError(
                f'no policy {digest} in {self.folder}; copy the file that drove the robot to '
                f'{path.name} there, or give its folder with --policies'
            )
        policy = ChunkPolicy.load(path, self._device)
        if policy.digest != digest:
            raise ModelError(f'{path} holds policy {policy.digest}, not that of its name')
        sizes = (policy.info.state_dim, policy.info.action_dim)
        wanted = (self._contract.state_dim, self._contract.action_dim)
        if sizes != wanted:
            raise ModelError(f'{path}: state and action sizes are {sizes}, wanted {wanted}')
        return policy


@dataclass
class Comparison:
    """What was compared.

    Attributes:
        chunks: looked at.
        compared: of these, with everything there to compute them again.
        bit_exact: of these, the same in every bit.
        largest: difference of one number, over all compared.
        largest_chunk: where that is.
        complaints: one line for each chunk that differs or could not be computed.
        tuned: planned with other than the trained noise or number of candidates.
    """

    chunks: int = 0
    compared: int = 0
    bit_exact: int = 0
    largest: float = 0.0
    largest_chunk: int = -1
    complaints: list[str] = field(default_factory=list)
    tuned: int = 0

    @property
    def agrees(self) -> bool:
        """Whether every chunk was compared and is within the tolerance."""
        return not self.complaints

    def text(self, policies: Policies) -> str:
        """Return the result in lines."""
        lines = [f'  {line}' for line in self.complaints[:SHOWN]]
        if len(self.complaints) > SHOWN:
            lines.append(f'  and {len(self.complaints) - SHOWN} more')
        result = f'{self.bit_exact} bit-exact'
        if self.bit_exact < self.compared:
            result += f', largest difference {self.largest:.3g} in chunk {self.largest_chunk}'
        lines.append(
            f'{self.compared} of {self.chunks} chunks compared, {result}; '
            f'{len(policies.loaded)} policies, {self.tuned} chunks not planned as trained'
        )
        return '\n'.join(lines)


def compare(chunks: Iterable[RecordedChunk], policies: Policies) -> Comparison:
    """Compute every chunk again.

    Raises:
        ModelError: a policy file is missing, or not the one.
    """
    result = Comparison()
    for chunk in chunks:
        record = chunk.record
        result.chunks += 1
        result.tuned += record.noise_scale != 1.0 or record.num_samples != 0
        name = f'chunk {record.chunk} of episode {record.episode}'
        if chunk.observation is None:
            result.complaints.append(f'{name}: not compared, {chunk.missing}')
            continue
        policy = policies.find(record.digest)
        again = policy.plan(chunk.observation, record.seed, record.noise_scale, record.num_samples)
        if again.shape != record.actions.shape:
            result.complaints.append(
                f'{name}: not compared, it has shape {record.actions.shape}, '
                f'its policy plans {again.shape}'
            )
            continue
        result.compared += 1
        result.bit_exact += again.tobytes() == np.ascontiguousarray(record.actions).tobytes()
        difference = float(np.abs(again.astype(np.float64) - record.actions).max())
        if difference > result.largest:
            result.largest, result.largest_chunk = difference, record.chunk
        if not difference <= TOLERANCE:
            result.complaints.append(f'{name}: differs by {difference:.3g}')
    return result


def _contract(given: str | None, name: str, digest: str, bag: Path) -> Contract:
    """Return the contract; raises ContractError if it is not that of the recording."""
    if not given and not name:
        raise ContractError(f'{bag} does not say its contract; give --contract')
    contract = load_contract(given or name)
    if digest and contract.hash != digest:
        raise ContractError(
            f'{bag} was recorded under contract {name!r} ({digest[:12]}), but {contract.file} is '
            f'{contract.hash[:12]}; give the contract of that time with --contract'
        )
    return contract
