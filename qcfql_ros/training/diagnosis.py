# SPDX-License-Identifier: Apache-2.0
"""What is looked at now and then, not at each update: is the critic right, is it imitation?

Drawn with generators of its own, so that looking changes nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from qcfql_ros.algorithm.normalizer import Normalizer
from qcfql_ros.algorithm.update import Update
from qcfql_ros.data.replay import Replay
from qcfql_ros.training.buffers import Buffers

#: Runs whose policy collapsed had a lower `behavior_share` or a larger `loss_distillation`; no
#: run that learned came near, on two tasks, from `WARN_FROM_UPDATES` on: docs/results/weights.md.
BEHAVIOR_SHARE_WARNING = 0.3
DISTILLATION_WARNING = 0.4
WARN_FROM_UPDATES = 1000

NUM_RETURNS = 256  # windows whose return is compared with Q
MIN_RETURNS = 16  # for a correlation
NUM_TAIL_DRAWS = 1024  # windows drawn to find some with an unknown tail
NUM_TAIL_WINDOWS = 64  # of those, as many are looked at
NUM_TAILS = 8  # flow samples for each


@torch.no_grad()
def diagnose(update: Update, buffers: Buffers, normalizer: Normalizer) -> dict[str, float]:
    """Return those of `metrics.DIAGNOSIS_METRICS` that the data allow.

    Args:
        update: networks and settings; nothing in it changes.
        buffers: the recorded steps.
        normalizer: of the run.
    """
    draws = np.random.default_rng(update.count)
    return {
        **_q_against_returns(update, buffers, normalizer, draws),
        **_q_over_tails(update, buffers, draws),
    }


def _q_against_returns(
    update: Update, buffers: Buffers, normalizer: Normalizer, draws: np.random.Generator
) -> dict[str, float]:
    replays = [buffers.practice, *([buffers.demonstrations] if buffers.demonstrations else [])]
    drawn = [realised_returns(replay, NUM_RETURNS, draws) for replay in replays if replay.steps]
    if not any(len(part[2]) for part in drawn):
        return {}
    states, chunks, returns = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
    q = _mean_q(update, normalizer(torch.from_numpy(states)), torch.from_numpy(chunks))
    values = q.cpu().numpy().astype(np.float64)
    found = {'q_minus_return': float(np.mean(values - returns))}
    if len(returns) >= MIN_RETURNS and np.std(returns) > 0.0 and np.std(values) > 0.0:
        found['q_return_correlation'] = float(np.corrcoef(values, returns)[0, 1])
    return found


def realised_returns(
    replay: Replay, most: int, draws: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return states, recorded chunks and what came of them, for at most `most` drawn steps.

    Only steps whose segment has a terminated step later, at the chunk's last action or behind
    it: the return is the discounted sum up to and with the first such step.

    ::

        r0 r1 r2 r3 r4 T    k = 3: the steps 0 to 3 count; behind them the chunk is cut

    Returns:
        (n, state_dim) float32, (n, chunk, action_dim) float32, (n,) float64.
    """
    order = np.arange(max(0, replay.rows - replay.capacity), replay.rows) % replay.capacity
    ended = np.flatnonzero(replay.terminated[order])
    bounds = np.flatnonzero(~replay.is_step[order])
    here = np.arange(len(order))
    end = np.append(ended, len(order))[np.searchsorted(ended, here)]
    bound = np.append(bounds, len(order))[np.searchsorted(bounds, here)]
    usable = np.flatnonzero((end < bound) & (end - here >= replay.chunk - 1))
    chosen = draws.choice(usable, min(most, len(usable)), replace=False)
    returns = np.array([_discounted(replay, order[i : end[i] + 1]) for i in chosen], np.float64)
    places = order[chosen[:, None] + np.arange(replay.chunk)]
    return replay.observations[order[chosen]], replay.actions[places], returns


def _discounted(replay: Replay, places: np.ndarray) -> float:
    return float(replay.rewards[places] @ replay.discount ** np.arange(len(places)))


def _q_over_tails(
    update: Update, buffers: Buffers, draws: np.random.Generator
) -> dict[str, float]:
    batch = buffers.sample(NUM_TAIL_DRAWS, draws)
    found = torch.nonzero(batch.tail_unknown.any(1) & (batch.weight > 0.0)).flatten()
    found = found[:NUM_TAIL_WINDOWS]
    if not len(found):
        return {}
    state = batch.state[found].to(update.device).repeat_interleave(NUM_TAILS, 0)
    chunk = batch.chunk[found].to(update.device).repeat_interleave(NUM_TAILS, 0)
    unknown = batch.tail_unknown[found].to(update.device).repeat_interleave(NUM_TAILS, 0)
    generator = torch.Generator(update.device).manual_seed(update.count)
    noise = torch.randn(chunk.shape, generator=generator, device=update.device)
    tails = update.networks.behavior.sample(state, noise=noise)
    q = _mean_q(update, state, torch.where(unknown[:, :, None], tails, chunk))
    spread = q.reshape(-1, NUM_TAILS).std(1, unbiased=False)
    return {'q_tail_spread': float(spread.mean())}


def _mean_q(update: Update, state: Tensor, chunk: Tensor) -> Tensor:
    critic = update.networks.critic
    return critic(state.to(update.device), chunk.to(update.device)).squeeze(-1)


def short_segments(buffers: Buffers) -> int:
    """Return how many segments were too short to learn a value from."""
    demonstrations = buffers.demonstrations
    more = demonstrations.short_segments if demonstrations is not None else 0
    return buffers.practice.short_segments + more


def left_behavior(notes: dict[str, Any], means: dict[str, float], update: Update) -> str:
    """Return a line when the behaviour no longer holds the policy, once a run.

    Args:
        notes: of the training state; that it was said is kept there.
        means: `behavior_share` and `loss_distillation`, over a row's updates.
        update: gives the count and the weight at present.
    """
    share, distance = means.get('behavior_share'), means.get('loss_distillation')
    if share is None or distance is None or update.count < WARN_FROM_UPDATES:
        return ''
    holds = share >= BEHAVIOR_SHARE_WARNING and distance <= DISTILLATION_WARNING
    if holds or notes.get('warned_behavior_share'):
        return ''
    notes['warned_behavior_share'] = True
    weight = update.distillation_weight
    return (
        f'the demonstrations hardly hold the policy at distillation_weight {weight:g}: '
        f'behavior_share {share:.2g} (wanted {BEHAVIOR_SHARE_WARNING:g} or more), '
        f'loss_distillation {distance:.2g} (wanted {DISTILLATION_WARNING:g} or less); try '
        f'--distillation_weight {10.0 * weight:g} (docs/algorithm.md)'
    )
