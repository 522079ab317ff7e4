# SPDX-License-Identifier: Apache-2.0
"""Batches of named features, as data loaders give them, to windows."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from qcfql_ros.algorithm.batch import Batch
from qcfql_ros.algorithm.config import AlgorithmConfig
from qcfql_ros.errors import ParameterError

STATE = 'observation.state'
_NEXT_STATE = ('next.observation.state', 'next_observation.state')
_REWARD = ('next.reward', 'reward')
_TERMINATED = ('next.terminated', 'terminated')
_TRUNCATED = ('next.truncated', 'truncated')
_DONE = ('next.done', 'done')
_SUCCESS = ('next.success', 'success')


def windows_from_features(features: Mapping[str, Tensor], config: AlgorithmConfig) -> Batch:
    """Return the windows of a batch of named features.

    n is ``config.window_steps``, k ``config.action_chunk_size``.

    ================================  =============================================================
    feature                           what
    ================================  =============================================================
    ``observation.state``             (batch, state_dim) at the start; or (batch, 2, state_dim), at
                                      the start and behind the window
    ``next.observation.state``        (batch, state_dim) behind the window, unless it stands above
    ``action``                        (batch, k, action_dim) or (batch, k * action_dim)
    ``next.reward``                   (batch, n) of each step; or (batch,), their discounted sum
    ``next.terminated``               (batch, n) of each step; or (batch,), of the last one
    ``next.truncated``                the same, optional
    ``next.done``, ``next.success``   where there is no ``next.terminated``: what is done is
                                      terminated unless truncated; without ``next.truncated``
                                      unless it is no success; done alone is terminated
    ``action_is_pad``                 (batch, k), optional: not recorded
    ================================  =============================================================

    ``next_observation.state`` and names without ``next.`` are taken too. A window cut short by
    anything but a termination gets weight 0 in the critic's loss.

    Raises:
        ParameterError: a feature is missing or has another shape.
    """
    state = _feature(features, STATE)
    if state.ndim == 3 and state.shape[1] == 2:
        state, next_state = state[:, 0], state[:, 1]
    else:
        next_state = _feature(features, *_NEXT_STATE)
    batch, steps, chunk_size = len(state), config.window_steps, config.action_chunk_size
    _require(STATE, state, (batch, config.state_dim))
    _require(_NEXT_STATE[0], next_state, (batch, config.state_dim))
    chunk = _feature(features, 'action')
    if chunk.ndim == 2:
        _require('action', chunk, (batch, config.chunk_dim))
        chunk = chunk.reshape(batch, chunk_size, config.action_dim)
    _require('action', chunk, (batch, chunk_size, config.action_dim))
    pad = features.get('action_is_pad')
    pad = torch.zeros(batch, chunk_size, device=state.device) if pad is None else pad
    _require('action_is_pad', pad, (batch, chunk_size))
    pad = pad.bool()
    last = torch.full((batch,), steps - 1, device=state.device)
    if steps == chunk_size:  # a window cut short ends where the padding begins
        last = ((~pad).sum(1) - 1).clamp_min(0)
    terminated, truncated = _ends(features, last, steps)
    ended = terminated.cumsum(1) - terminated.long()  # ends before each step
    reward = _feature(features, *_REWARD).to(state.dtype)
    if reward.ndim == 2 and reward.shape[1] == steps:
        powers = torch.arange(steps, device=state.device, dtype=state.dtype)
        counted = reward if config.rewards_after_termination else reward * (ended == 0)
        reward = counted @ config.discount**powers
    else:
        reward = reward.reshape(-1)
        _require(_REWARD[0], reward, (batch,))
    has_end = terminated.any(1)
    weight = _weights(pad, terminated, truncated, ended, config)
    return Batch(
        state=state,
        chunk=chunk.to(state.dtype),
        valid=(~pad).to(state.dtype),
        tail_unknown=pad,
        reward=reward,
        bootstrap=(~has_end).to(state.dtype) * config.discount**steps,
        next_state=next_state.to(state.dtype),
        weight=weight.to(state.dtype),
    )


def _ends(features: Mapping[str, Tensor], last: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Return which steps are terminated and which truncated, (batch, n) bool each.

    Args:
        features: the batch.
        last: (batch,), the step at which one value for a window stands.
        steps: of a window [n].
    """

    def find(names: tuple[str, ...]) -> Tensor | None:
        found = next((features[name] for name in names if name in features), None)
        return None if found is None else _by_step(found, last, steps, names[0])

    terminated, truncated = find(_TERMINATED), find(_TRUNCATED)
    done, success = find(_DONE), find(_SUCCESS)
    if terminated is None:
        if done is None:
            _feature(features, *_TERMINATED)  # raises
        assert done is not None
        if truncated is not None:
            terminated = done & ~truncated
        else:
            terminated = done if success is None else done & success
    if truncated is None:
        truncated = torch.zeros_like(terminated) if done is None else done & ~terminated
    return terminated, truncated


def _weights(
    pad: Tensor, terminated: Tensor, truncated: Tensor, ended: Tensor, config: AlgorithmConfig
) -> Tensor:
    """Return which windows the critic can learn from, (batch,) bool."""
    columns = pad.shape[1]
    short = (pad & (ended[:, :columns] == 0)).any(1)  # padded, and not behind a termination
    before_end = ended + terminated.long() == 0
    short |= (truncated & before_end)[:, :-1].any(1)
    if not config.terminal_windows:
        short |= pad.any(1)
    return ~short


def _by_step(values: Tensor, last: Tensor, steps: int, name: str) -> Tensor:
    """Return (batch, steps) bool; one value for a window stands at its step `last`."""
    if values.shape == (len(last), steps):
        return values.bool()
    values = values.reshape(-1)
    _require(name, values, (len(last),))
    by_step = torch.zeros(len(last), steps, dtype=torch.bool, device=values.device)
    return by_step.scatter(1, last[:, None], values.bool()[:, None])


def _feature(features: Mapping[str, Tensor], *names: str) -> Tensor:
    for name in names:
        if name in features:
            return features[name]
    raise ParameterError(f'batch has no {names[0]!r}; it has {", ".join(sorted(features))}')


def _require(name: str, values: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(values.shape) != shape:
        raise ParameterError(f'batch: {name} has shape {tuple(values.shape)}, wanted {shape}')
