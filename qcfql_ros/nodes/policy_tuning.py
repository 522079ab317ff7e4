# SPDX-License-Identifier: Apache-2.0
"""Parameters of the policy node that may change while driving, and what they must fit."""

from __future__ import annotations

from typing import Any

import numpy as np

from qcfql_ros.algorithm.policy import ChunkPolicy
from qcfql_ros.contract.schema import Contract
from qcfql_ros.control.tuning import Tuning
from qcfql_ros.errors import ModelError, ParameterError
from qcfql_ros.nodes.weight_gate import check_speed


def tuning_of(values: Any) -> Tuning:
    """Return the part of the parameters that takes effect at a boundary."""
    return Tuning(
        limits_scale=values.limits_scale,
        noise_scale=values.noise_scale,
        num_action_samples=values.num_action_samples,
        on_late=values.on_late,
        lead_s=values.lead_s,
        adaptive_lead=values.adaptive_lead,
    )


def check_tuning(values: Any, contract: Contract, policy: ChunkPolicy) -> None:
    """Check what only contract and policy can tell of parameters.

    Raises:
        ParameterError: more rows are to be played than planned, the lead is longer than a chunk,
            or the policy has no candidates or takes too long for so many.
    """
    rows, horizon = policy.info.action_chunk_size, values.execution_horizon
    if horizon > rows:
        raise ParameterError(
            f'parameter execution_horizon is {horizon}, but the policy plans {rows} rows; '
            f'wanted at most {rows}'
        )
    chunk_s = (horizon or rows) * contract.period_ns * 1e-9
    if values.pacing == 'wall' and values.lead_s > chunk_s:
        raise ParameterError(
            f'parameter lead_s is {values.lead_s:g}, but a chunk is played for {chunk_s:g} s; '
            'wanted no longer than that'
        )
    whole = [command.topic for command in contract.action.commands if command.whole_chunk]
    if values.on_late == 'repeat' and whole:
        raise ParameterError(
            f'parameter on_late is {values.on_late!r}, but topic {whole[0]!r} gets whole chunks, '
            "of which no row can be repeated; wanted 'hold'"
        )
    policy.check_samples(values.num_action_samples)
    if values.num_action_samples:
        nowhere = np.zeros(contract.state_dim, dtype=np.float32)
        where, period_s = 'parameter num_action_samples', contract.period_ns * 1e-9
        try:
            check_speed(policy, nowhere, period_s, where, values.num_action_samples)
        except ModelError as error:
            raise ParameterError(str(error)) from None
