# SPDX-License-Identifier: Apache-2.0
"""What the policy node reads and makes when it is configured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from qcfql_ros.algorithm.policy import ChunkPolicy
from qcfql_ros.contract import load_contract
from qcfql_ros.contract.schema import Contract
from qcfql_ros.control.counters import Counters
from qcfql_ros.control.halt import HaltLatch, latch_file
from qcfql_ros.control.planner import Planner
from qcfql_ros.control.tuning import TuningBox
from qcfql_ros.errors import ParameterError
from qcfql_ros.nodes.policy_tuning import check_tuning
from qcfql_ros.nodes.weight_gate import WeightGate, check_fit, try_out


@dataclass(frozen=True)
class Setup:
    """One configuration; activations of the node share it."""

    contract: Contract
    planner: Planner
    gate: WeightGate
    latch: HaltLatch
    counters: Counters
    device: str


def set_up(
    parameters: Any,
    namespace: str,
    before: Setup | None,
    log: Callable[[str], None],
    tuning: TuningBox,
) -> Setup:
    """Read contract and model, and plan once.

    Args:
        parameters: of the node, checked.
        namespace: of the node.
        before: an earlier configuration of this process, whose halt holds on.
        log: told what nobody expected of received weights.
        tuning: what may be changed while running.

    Raises:
        QcfqlError: a parameter, the contract or the model is wrong, or they do not fit.
    """
    for name in ('contract', 'model'):
        if not getattr(parameters, name):
            raise ParameterError(f'parameter {name} is not set; give -p {name}:=...')
    device = parameters.device
    if device == 'auto':
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
    elif device == 'cuda' and not torch.cuda.is_available():
        raise ParameterError('parameter device is cuda, but torch finds no GPU; take cpu')
    torch.set_num_threads(parameters.threads)
    contract = load_contract(parameters.contract)
    if parameters.pacing == 'lockstep':
        contract.require_stamps()
    policy = ChunkPolicy.load(parameters.model, device)
    check_fit(policy, contract, parameters.model)
    check_tuning(parameters, contract, policy)
    try_out(policy, np.zeros(contract.state_dim, dtype=np.float32), parameters.model)
    after_crash = contract.after_crash
    latch = HaltLatch(
        latch_file(parameters.state_dir, namespace, contract.name, after_crash), after_crash
    )
    if before is not None and before.latch.halted:  # cleanup is no ~/resume
        latch.halt(before.latch.reason)
    counters = Counters()
    planner = Planner(policy, parameters.seed, counters, tuning)
    gate = WeightGate(contract, planner, device, log)
    return Setup(contract, planner, gate, latch, counters, device)
