# SPDX-License-Identifier: Apache-2.0
"""Who lets new weights in: everything is checked in a thread of its own, then offered."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
import traceback
from collections.abc import Callable

import numpy as np

from qcfql_ros.algorithm.policy import ChunkPolicy
from qcfql_ros.contract.schema import Contract
from qcfql_ros.control.planner import Planner
from qcfql_ros.errors import ModelError, ParameterError, WeightError
from qcfql_ros.nodes.weights import PART_BYTES, ReceivedWeights, WeightReceiver

REASON_CHARACTERS = 500
MOST_WAITING = 1032  # parts, a little more than the largest policy has: 258 MiB


def check_fit(policy: ChunkPolicy, contract: Contract, where: str) -> None:
    """Check that `policy` was made for `contract`.

    Raises:
        ModelError: names both, and what to do.
    """
    info = policy.info
    if info.contract_hash != contract.hash:
        raise ModelError(
            f'{where}: trained for contract {info.contract_name!r} ({info.contract_hash[:12]}), '
            f'but this is {contract.name!r} ({contract.hash[:12]}) of {contract.file}; '
            f'give a model of this contract, or train one'
        )
    sizes = (info.state_dim, info.action_dim)
    wanted = (contract.state_dim, contract.action_dim)
    if sizes != wanted:
        raise ModelError(f'{where}: state and action sizes are {sizes}, wanted {wanted}')


def try_out(policy: ChunkPolicy, observation: np.ndarray, where: str) -> None:
    """Plan once; raises ModelError unless a finite chunk of the right shape comes out."""
    chunk = policy.plan(observation, seed=0)
    wanted = (policy.info.action_chunk_size, policy.info.action_dim)
    if chunk.shape != wanted or not np.isfinite(chunk).all():
        raise ModelError(
            f'{where}: planned a chunk of shape {chunk.shape}, wanted {wanted} finite'
        )


def check_speed(
    policy: ChunkPolicy,
    observation: np.ndarray,
    period_s: float,
    where: str,
    num_samples: int = 0,
) -> None:
    """Refuse a policy that takes longer to plan a chunk than the robot to play it.

    Raises:
        ModelError: names both times.
    """
    took_s = []
    for seed in (1, 2):  # the faster of two, for the machine may be busy
        begin_s = time.monotonic()
        policy.plan(observation, seed, num_samples=num_samples)
        took_s.append(time.monotonic() - begin_s)
    chunk_s = policy.info.action_chunk_size * period_s
    if min(took_s) > chunk_s:
        raise ModelError(
            f'{where}: planning a chunk takes {min(took_s):.2g} s, playing it {chunk_s:.2g} s; '
            'take a lower num_action_samples, or train smaller networks'
        )


class WeightGate:
    """Receives parts and offers whole, checked policies to the planner.

    Versions must rise within one publishing process. Another process is taken for a learner that
    was started again: its first policy is accepted whatever its version, and those of the process
    before are refused from then on.

    Args:
        contract: of the robot.
        planner: offered what is let in.
        device: 'cpu' or 'cuda', of the policies.
        log: told the traceback of what nobody expected.

    Attributes:
        accepted: policies offered.
        rejected: transfers refused.
        reason: of the last refusal.
    """

    def __init__(
        self, contract: Contract, planner: Planner, device: str, log: Callable[[str], None]
    ) -> None:
        self.accepted = 0
        self.rejected = 0
        self.reason = ''
        self._contract = contract
        self._planner = planner
        self._device = device
        self._log = log
        self._receiver = WeightReceiver()
        self._session: int | None = None
        self._past_sessions: set[int] = set()
        self._version = -1
        self._digest = planner.policy.digest
        self._parts: queue.Queue[bytes | None] = queue.Queue(MOST_WAITING)
        self._counting = threading.Lock()
        self._thread: threading.Thread | None = None

    def on_part(self, part: bytes) -> None:
        """Take a part; never waits. What comes faster than it is checked is refused."""
        if len(part) > PART_BYTES:
            self._refuse(f'part of {len(part)} bytes, wanted at most {PART_BYTES}')
            return
        try:
            self._parts.put_nowait(part)
        except queue.Full:
            self._refuse(f'{MOST_WAITING} parts wait to be checked: one more is dropped')

    def take(self, part: bytes) -> None:
        """Work on one part in the caller's thread: refusals are counted, not raised."""
        try:
            received = self._receiver.receive(part)
            if received is not None:
                self._let_in(received)
        except (WeightError, ModelError) as error:
            self._refuse(str(error))
        except Exception as error:  # what others send must not end the one who drives
            self._log(f'weights refused: {traceback.format_exc()}')
            self._refuse(f'{type(error).__name__}: {error}')

    def _refuse(self, reason: str) -> None:
        # A file's own words may be long, or not be text that a message can carry.
        printable = reason.encode('utf-8', 'backslashreplace').decode()
        self.reason = printable[:REASON_CHARACTERS]
        with self._counting:
            self.rejected += 1

    def _let_in(self, received: ReceivedWeights) -> None:
        where = f'received version {received.version}'
        if received.session in self._past_sessions:
            raise WeightError(f'{where}: from a learner that another one has replaced')
        again = received.session == self._session
        policy = ChunkPolicy.load(received.blob, self._device)
        if policy.digest == self._digest:
            return  # the one we have
        if again and received.version <= self._version:
            raise WeightError(f'{where}: not newer than version {self._version}')
        if policy.info.version != received.version:
            raise WeightError(f'{where}: the file itself says version {policy.info.version}')
        check_fit(policy, self._contract, where)
        size, wanted = policy.info.action_chunk_size, self._planner.policy.info.action_chunk_size
        if size != wanted:
            raise WeightError(f'{where}: chunks of {size} actions, wanted {wanted}')
        observation = self._planner.last_observation
        if observation is None:
            observation = np.zeros(self._contract.state_dim, dtype=np.float32)
        try_out(policy, observation, where)
        num_samples = self._planner.tuning.wanted.num_action_samples
        try:
            policy.check_samples(num_samples)
        except ParameterError as error:
            raise WeightError(f'{where}: {error}') from error
        period_s = self._contract.period_ns * 1e-9
        check_speed(policy, observation, period_s, where, num_samples)
        if not again and self._session is not None:
            self._past_sessions.add(self._session)
        self._session, self._version = received.session, received.version
        self._digest = policy.digest
        self.accepted += 1
        self._planner.offer(policy)

    def start(self, died: Callable[[BaseException], None]) -> None:
        """Work in a thread; `died` is told what it died of."""

        def body() -> None:
            try:
                while (part := self._parts.get()) is not None:
                    self.take(part)
            except BaseException as error:
                died(error)

        self._thread = threading.Thread(target=body, name='weights', daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after the part in progress; those that wait are left."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._parts.get_nowait()
        self._parts.put(None)
        if self._thread is not None:
            self._thread.join(timeout=2.0)
