# SPDX-License-Identifier: Apache-2.0
"""The announcement of a planned chunk, as ``trajectory_msgs/JointTrajectory``.

The header's frame_id carries compact JSON: which chunk, from which observations, by which policy
and with which noise, so that the chunk can be computed again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qcfql_ros.contract.decode import stamp_of
from qcfql_ros.contract.malformed import refuses_malformed
from qcfql_ros.contract.named_vector import set_stamp
from qcfql_ros.contract.schema import Contract
from qcfql_ros.errors import MessageError


@dataclass(frozen=True, eq=False)
class ChunkRecord:
    """One planned chunk.

    Attributes:
        stamp_ns: stamp of its first tick.
        actions: (k, action_dim) float32, as planned, before the safety filter.
        chunk: number of the chunk.
        episode: the policy's episode.
        seed: of the noise.
        digest: of the policy's tensors, 64 hex digits.
        policy_version: of the policy.
        observation_stamps: stamp in ns of the message used of each stream; 0 of one without a
            header stamp, which was aligned by when it was received.
        noise_scale: on the noise.
        num_samples: candidates of a best-of-N policy; 0 as trained.
    """

    stamp_ns: int
    actions: np.ndarray
    chunk: int
    episode: int
    seed: int
    digest: str
    policy_version: int
    observation_stamps: dict[str, int] = field(default_factory=dict)
    noise_scale: float = 1.0
    num_samples: int = 0

    def observed(self, stamps: Mapping[str, int]) -> bool:
        """Whether an observation with these stamps is the one that was announced.

        A receipt is not compared: policy and recorder receive a message at times of their own.
        """
        return self.observation_stamps.keys() == stamps.keys() and all(
            stamp_ns in (0, stamps[name]) for name, stamp_ns in self.observation_stamps.items()
        )


def chunk_message(record: ChunkRecord, contract: Contract) -> Any:
    """Return a ``trajectory_msgs.msg.JointTrajectory`` of rclpy."""
    from builtin_interfaces.msg import Duration
    from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

    message = JointTrajectory(joint_names=list(contract.action.names))
    set_stamp(message, record.stamp_ns)
    about: dict[str, Any] = {
        'chunk': record.chunk,
        'episode': record.episode,
        'seed': record.seed,
        'digest': record.digest,
        'policy_version': record.policy_version,
        'observation_stamps': record.observation_stamps,
    }
    # Said where it is not as trained: the rule is what readers of before these keys know.
    if record.noise_scale != 1.0:
        about['noise_scale'] = record.noise_scale
    if record.num_samples:
        about['num_samples'] = record.num_samples
    message.header.frame_id = json.dumps(about, separators=(',', ':'))
    for i, row in enumerate(np.asarray(record.actions, dtype=np.float64)):
        sec, nanosec = divmod(i * contract.period_ns, 1_000_000_000)
        message.points.append(
            JointTrajectoryPoint(
                positions=row.tolist(), time_from_start=Duration(sec=sec, nanosec=nanosec)
            )
        )
    return message


@refuses_malformed
def decode_chunk(message: Any, contract: Contract) -> ChunkRecord:
    """Return the chunk in `message`.

    Raises:
        MessageError: it is not a chunk of this contract.
    """
    if tuple(message.joint_names) != contract.action.names:
        raise MessageError(
            f'chunk: actions are {list(message.joint_names)}, wanted {list(contract.action.names)}'
        )
    try:
        with np.errstate(over='ignore'):  # told below
            actions = np.array([point.positions for point in message.points], dtype=np.float32)
    except (ValueError, TypeError, AttributeError) as error:
        raise MessageError(f'chunk: points are not a chunk: {error!r}') from error
    record = record_of(message.header.frame_id, stamp_of(message), actions)
    if actions.ndim != 2 or actions.shape[1] != contract.action.dim:
        raise MessageError(
            f'chunk: points have shape {actions.shape}, wanted (k, {contract.action.dim})'
        )
    if not np.isfinite(actions).all():
        raise MessageError(f'chunk {record.chunk}: an action is not finite')
    return record


@refuses_malformed
def record_of(frame_id: str, stamp_ns: int, actions: np.ndarray) -> ChunkRecord:
    """Return the chunk that `frame_id` tells of.

    Args:
        frame_id: of the header.
        stamp_ns: of the header.
        actions: (k, action_dim) float32, of the points.

    Raises:
        MessageError: it tells of none.
    """
    try:
        about = json.loads(frame_id)
        return ChunkRecord(
            stamp_ns=stamp_ns,
            actions=actions,
            chunk=int(about['chunk']),
            episode=int(about['episode']),
            seed=int(about['seed']),
            digest=str(about['digest']),
            policy_version=int(about['policy_version']),
            observation_stamps={str(k): int(v) for k, v in about['observation_stamps'].items()},
            noise_scale=float(about.get('noise_scale', 1.0)),
            num_samples=int(about.get('num_samples', 0)),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MessageError(f'chunk: frame_id is not that of a chunk: {error!r}') from error
