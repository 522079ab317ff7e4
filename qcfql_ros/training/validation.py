# SPDX-License-Identifier: Apache-2.0
"""Held-out segments: which they are, the losses on them, and the sign of over-training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch

from qcfql_ros.algorithm.batch import Noise
from qcfql_ros.algorithm.losses import all_losses
from qcfql_ros.algorithm.normalizer import Normalizer
from qcfql_ros.algorithm.update import Update
from qcfql_ros.data.replay import Replay
from qcfql_ros.data.step_block import StepBlock
from qcfql_ros.errors import ParameterError
from qcfql_ros.training.buffers import Buffers

MIN_SEGMENTS = 20
NUM_BATCHES = 4
CLEAR_RISE = 1.1  # times the lowest validation loss
ROWS_IN_A_ROW = 3  # so that one odd row does not warn


class Split:
    """Holds out whole segments: of every n in order one drawn by `seed`, n = 1 / `fraction`.

    n is rounded to a whole number: 0.3 holds out a third, 0.4 and 0.5 a half.
    The same recordings give the same split, and recordings added behind them do not change it.
    Of fewer than `MIN_SEGMENTS` segments none is held out.

    Args:
        fraction: of the segments, in [0, 0.5].
        seed: of the draws.

    Raises:
        ParameterError: the fraction is out of range.
    """

    def __init__(self, fraction: float, seed: int) -> None:
        if not 0.0 <= fraction <= 0.5:
            raise ParameterError(f'validation_fraction: got {fraction}, wanted in [0, 0.5]')
        self.fraction = fraction
        self.held_out = 0  # segments
        self._seed = seed
        self._drawn = (-1, 0)  # number of a block, and the place drawn in it

    def training(
        self,
        blocks: Iterable[StepBlock],
        segments: int,
        hold_out: Callable[[StepBlock], None],
    ) -> Iterator[StepBlock]:
        """Yield what is to be trained on; give the rest to `hold_out`.

        Args:
            blocks: all there is.
            segments: how many are in them.
            hold_out: takes what is held out, in order.
        """
        if self.fraction == 0.0 or segments < MIN_SEGMENTS:
            yield from blocks
            return
        number = 0
        for block in blocks:
            cuts = []  # after which step and end it goes to the other side
            held = self.is_held_out(number)
            for end, after in enumerate(block.end_after.tolist(), 1):
                number += 1
                self.held_out += held
                if self.is_held_out(number) != held:
                    cuts.append((after, end, held))
                    held = not held
            cuts.append((len(block), len(block.end_after), held))
            step = end = 0
            for last_step, last_end, held in cuts:
                part = block.part(slice(step, last_step), slice(end, last_end))
                step, end = last_step, last_end
                if held:
                    hold_out(part)
                else:
                    yield part

    def is_held_out(self, number: int) -> bool:
        """Whether segment `number`, from 0, is the drawn one of its block."""
        block_size = round(1.0 / self.fraction)
        block, place = divmod(number, block_size)
        if block != self._drawn[0]:
            drawn = np.random.default_rng((self._seed, block)).integers(block_size)
            self._drawn = (block, int(drawn))
        return place == self._drawn[1]


class Validation:
    """The losses on held-out windows: each time on the same windows with the same noise.

    Nothing is changed and none of the run's generators is advanced.

    Args:
        held_out: the windows.
        normalizer: of the run.
        update: gives settings and device.
        seed: of windows and noise.
    """

    def __init__(
        self, held_out: Replay, normalizer: Normalizer, update: Update, seed: int
    ) -> None:
        buffers, size = Buffers(held_out, None, None, normalizer), update.config.batch_size
        sampler = np.random.default_rng(seed)
        generator = torch.Generator(update.device).manual_seed(seed)
        self._parts = [
            (
                buffers.sample(size, sampler).to(update.device),
                Noise.draw(size, update.config, generator),
            )
            for _ in range(NUM_BATCHES)
        ]

    @torch.no_grad()
    def losses(self, update: Update) -> dict[str, float]:
        """Return ``validation_loss_*``: behaviour, critic and, where distilled, distillation."""
        infos = [
            all_losses(
                update.networks, batch, noise, update.config, update.distillation_weight
            ).info
            for batch, noise in self._parts
        ]
        names = ('loss_behavior', 'loss_critic', 'loss_distillation')
        return {
            f'validation_{name}': float(torch.stack([info[name] for info in infos]).mean())
            for name in names
            if name in infos[0]
        }


def over_training(notes: dict[str, Any], loss: float, updates: int) -> str:
    """Take one validation behaviour loss; return a line when it has clearly risen, once a run.

    Args:
        notes: of the training state; what was seen so far is kept there.
        loss: ``validation_loss_behavior``.
        updates: at which it was taken.
    """
    lowest = notes.get('validation_lowest')
    if lowest is None or loss < lowest:
        notes['validation_lowest'], notes['validation_lowest_updates'] = loss, updates
    risen = lowest is not None and loss > CLEAR_RISE * lowest
    rows = notes['validation_rows_risen'] = (
        notes.get('validation_rows_risen', 0) + 1 if risen else 0
    )
    if rows < ROWS_IN_A_ROW or notes.get('warned_over_training'):
        return ''
    notes['warned_over_training'] = True
    return (
        f'over-training: the behaviour loss on held-out segments is {loss:.3g} and was '
        f'{lowest:.3g} at update {notes["validation_lowest_updates"]}; take an earlier '
        'checkpoint, record more, or choose smaller hidden_dims (docs/metrics.md)'
    )
