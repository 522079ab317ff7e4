# SPDX-License-Identifier: Apache-2.0
"""A chain with random terminations whose Q values are known exactly, and critics fitted on it.

Three states in a ring, ``0 -> 1 -> 2 -> 0``, whatever is done. The action is one number, a sign
times a size. Size s in state i ends the episode with ``p = RISK[i] * 2 (s - 0.5)``; the sign does
nothing. The reward is 0 on the step that terminates and -1 on any other.

Behaviour draws sizes from U(0.5, 1) for every step alike. Its signs say how the actions of one
chunk hang together:

- ``one``: always +; a chunk has a single mode.
- ``independent``: drawn for each step; prefix and tail of a chunk know nothing of each other.
- ``coherent``: drawn once an episode; the prefix of a chunk tells the sign of its tail.

With any of them ``V(i) = (1 - RISK[i] / 2) (-1 + discount V(i + 1))``, three linear equations.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from qcfql_ros.algorithm.batch import Batch
from qcfql_ros.algorithm.config import AlgorithmConfig, method
from qcfql_ros.algorithm.update import Update
from qcfql_ros.data.replay import Replay
from qcfql_ros.data.steps import SegmentEnd, Step

RISK = np.array([0.2, 0.8, 0.5])
STATES = len(RISK)
CHUNK = 3
DISCOUNT = 0.95
SIGNS = ('one', 'independent', 'coherent')

#: What is done about the part of a chunk behind a termination.
TREATMENTS = {
    'flow': 'ours, nothing planned: the tail of a sample of the behaviour flow',
    'planned': 'ours, plans recorded: the plan where the window starts it, else as flow',
    'pinned': 'a flow sample along whose path the executed prefix is held in place',
    'nearest': 'the flow sample whose prefix is nearest to the executed one, of 8',
    'zeros': 'zeros',
    'uniform': 'uniform noise in [-1, 1], drawn again at each use',
    'dropped': 'such windows are not learned from, as in the reference',
    'oracle': 'ours, recorded behind the termination: what behaviour would have gone on with',
}

CONFIG = AlgorithmConfig(
    STATES,
    1,
    **{
        # Behaviour is not improved upon: the target's chunk is a sample of its flow, so that the
        # critics estimate the Q of the behaviour, which is known, and tails are all that differs.
        **method('bc'),
        'action_chunk_size': CHUNK,
        'num_critics': 1,
        'critic_aggregation': 'mean',
        'discount': DISCOUNT,
        'critic_target_update_tau': 0.01,
        'hidden_dims': (64, 64),
        'flow_matching_num_inference_steps': 5,
        'learning_rate': 2e-3,
        'critic_layer_norm': False,
        'batch_size': 128,
    },
)


@dataclass(frozen=True)
class Episode:
    """One episode with what behaviour would have done had it gone on.

    Attributes:
        first: state of the first step.
        steps: until the termination, which is the last one.
        actions: (steps + CHUNK,) float32.
    """

    first: int
    steps: int
    actions: np.ndarray

    def state(self, index: int) -> int:
        """Return the state of step `index`."""
        return (self.first + index) % STATES


def one_hot(state: int | np.ndarray) -> np.ndarray:
    """Return observations, (..., STATES) float32."""
    return np.eye(STATES, dtype=np.float32)[state]


def draw_episodes(count: int, signs: str, random: np.random.Generator) -> list[Episode]:
    """Let behaviour act until each of `count` episodes terminates."""
    episodes = []
    for _ in range(count):
        first, step, actions = int(random.integers(STATES)), 0, []
        lasting = random.choice([-1.0, 1.0])
        while True:
            for _ in range(len(actions), step + CHUNK + 1):
                sign = {'one': 1.0, 'coherent': lasting}.get(signs, random.choice([-1.0, 1.0]))
                actions.append(sign * random.uniform(0.5, 1.0))
            risk = RISK[(first + step) % STATES] * 2.0 * (abs(actions[step]) - 0.5)
            step += 1
            if random.random() < risk:
                break
        episodes.append(Episode(first, step, np.array(actions, np.float32)))
    return episodes


def true_values() -> np.ndarray:
    """Return V, (STATES,)."""
    lasts = np.diag(1.0 - RISK / 2.0)
    following = np.roll(np.eye(STATES), 1, axis=1)
    return np.linalg.solve(np.eye(STATES) - DISCOUNT * lasts @ following, -lasts @ np.ones(STATES))


def true_q(states: np.ndarray, chunks: np.ndarray) -> np.ndarray:
    """Return Q, (batch,), of states (batch,) int and chunks (batch, CHUNK)."""
    value = true_values()[(states + CHUNK) % STATES]
    for index in reversed(range(CHUNK)):
        risk = RISK[(states + index) % STATES] * 2.0 * (np.abs(chunks[:, index]) - 0.5)
        value = (1.0 - risk) * (-1.0 + DISCOUNT * value)
    return value


#: Density of filled tails over that of true ones, for each unknown action: q / b.
DENSITY_RATIO = {
    ('zeros', 'any'): 0.0,
    ('dropped', 'any'): 0.0,
    ('uniform', 'one'): 0.25,
    ('uniform', 'independent'): 0.5,
    ('uniform', 'coherent'): 0.25,
}


def limit(states: np.ndarray, chunks: np.ndarray, treatment: str, signs: str) -> np.ndarray:
    """Return what least squares tends to at whole chunks: outcomes weighted by p q and (1-p) b.

    The flow at a state is fitted perfectly, but knows no prefix: with coherent signs its tail
    has the sign of the prefix in half of the samples.
    """
    ratio = DENSITY_RATIO.get((treatment, 'any'), DENSITY_RATIO.get((treatment, signs)))
    halved = treatment == 'flow' and signs == 'coherent'
    value = true_values()[(states + CHUNK) % STATES]
    total, mass = np.zeros(len(states)), np.zeros(len(states))
    reached, reward = np.ones(len(states)), np.zeros(len(states))
    for index in range(CHUNK):
        unknown = CHUNK - 1 - index
        weight = 1.0 if ratio is None else ratio**unknown
        weight = 0.5 if halved and unknown else weight
        risk = RISK[(states + index) % STATES] * 2.0 * (np.abs(chunks[:, index]) - 0.5)
        total, mass = total + reached * risk * weight * reward, mass + reached * risk * weight
        reached = reached * (1.0 - risk)
        reward = reward - DISCOUNT**index
    total += reached * (reward + DISCOUNT**CHUNK * value)
    return total / (mass + reached)


def fill(
    replay: Replay, episodes: list[Episode], plan_every: int = 0, goes_on: bool = False
) -> None:
    """Append the episodes.

    Args:
        replay: to be filled.
        episodes: of behaviour.
        plan_every: a plan of CHUNK actions is recorded at every so many steps; 0 for none.
        goes_on: CHUNK - 1 steps are recorded behind the termination, as in relabelled play: the
            tails of all windows that begin before it, and too few for a window of their own.
    """
    for number, episode in enumerate(episodes):
        recorded = episode.steps + (CHUNK - 1 if goes_on else 0)
        for index in range(recorded):
            planned = None
            if plan_every and index % plan_every == 0:
                planned = episode.actions[index : index + CHUNK, None]
            replay.append(
                Step(
                    stamp_ns=index,
                    observation=one_hot(episode.state(index)),
                    action=episode.actions[index : index + 1],
                    reward=0.0 if index == episode.steps - 1 else -1.0,
                    terminated=index == episode.steps - 1,
                    episode=number,
                    planned=planned,
                )
            )
        replay.append(SegmentEnd(one_hot(episode.state(recorded)), goes_on, 'end', True))


def near_the_end(episodes: list[Episode]) -> tuple[np.ndarray, np.ndarray]:
    """Return states (n,) and whole chunks (n, CHUNK) of the last CHUNK - 1 steps of each."""
    starts = [
        (episode, index)
        for episode in episodes
        for index in range(max(0, episode.steps - CHUNK + 1), episode.steps)
    ]
    states = np.array([episode.state(index) for episode, index in starts])
    chunks = np.stack([episode.actions[index : index + CHUNK] for episode, index in starts])
    return states, chunks


def with_tails(batch: Batch, treatment: str, update: Update) -> Batch:
    """Return the batch with its unknown tails as the treatment has them."""
    unknown = batch.tail_unknown
    if treatment == 'zeros':  # where nothing was recorded the replay's rows hold zeros
        return replace(batch, tail_unknown=torch.zeros_like(unknown))
    if treatment == 'uniform':
        noise = torch.rand(batch.chunk.shape, generator=update.generator) * 2.0 - 1.0
        chunk = torch.where(unknown[:, :, None], noise, batch.chunk)
        return replace(batch, chunk=chunk, tail_unknown=torch.zeros_like(unknown))
    if treatment in ('nearest', 'pinned'):
        draw = nearest_tails if treatment == 'nearest' else pinned_tails
        tails = draw(batch, update)
        chunk = torch.where(unknown[:, :, None], tails, batch.chunk)
        return replace(batch, chunk=chunk, tail_unknown=torch.zeros_like(unknown))
    return batch


@torch.no_grad()
def nearest_tails(batch: Batch, update: Update, samples: int = 8) -> torch.Tensor:
    """Return of several flow samples the one with the prefix nearest to what was executed."""
    noise = torch.randn((len(batch.state) * samples, CHUNK, 1), generator=update.generator)
    states = batch.state.repeat_interleave(samples, dim=0)
    chunks = update.networks.behavior.sample(states, noise=noise)
    chunks = chunks.reshape(-1, samples, CHUNK, 1)
    known = ~batch.tail_unknown[:, None, :, None]
    distance = ((chunks - batch.chunk[:, None]).square() * known).sum((2, 3))
    return chunks[torch.arange(len(chunks)), distance.argmin(1)]


def with_known_value(batch: Batch) -> Batch:
    """Return the batch with the true value behind the window in the reward, and no bootstrap."""
    value = torch.from_numpy(true_values().astype(np.float32))[batch.next_state.argmax(1)]
    reward = batch.reward + batch.bootstrap * value
    return replace(batch, reward=reward, bootstrap=torch.zeros_like(reward))


@torch.no_grad()
def pinned_tails(batch: Batch, update: Update) -> torch.Tensor:
    """Return flow samples whose known part is put on its straight path before each Euler step."""
    flow, sigma = update.networks.behavior, update.config.flow_matching_sigma
    known = ~batch.tail_unknown[:, :, None]
    start = torch.randn(batch.chunk.shape, generator=update.generator)
    point = start
    for index in range(flow.num_steps):
        time = index / flow.num_steps
        path = (1.0 - (1.0 - sigma) * time) * start + time * batch.chunk
        point = torch.where(known, path, point)
        times = torch.full((len(start),), time)
        point = point + flow(batch.state, point, times) / flow.num_steps
    return point.clamp(-1.0, 1.0)


def fit(
    treatment: str, signs: str, episodes: int, updates: int, seed: int, bootstrap: bool = False
) -> Update:
    """Return critics and behaviour flow fitted to `episodes` episodes of behaviour.

    Args:
        treatment: of the tails, one of TREATMENTS.
        signs: one of SIGNS.
        episodes: of data.
        updates: to make.
        seed: of data, weights and noise.
        bootstrap: learn the value behind a window too, as in use, where an error of tails comes
            back through the target. False regresses to the true value there: tails alone.
    """
    random = np.random.default_rng(seed)
    data = draw_episodes(episodes, signs, random)
    goes_on, kept = treatment == 'oracle', treatment != 'dropped'
    rows = sum(episode.steps + CHUNK for episode in data)
    replay = Replay(rows, STATES, 1, CHUNK, DISCOUNT, terminal_windows=kept)
    fill(replay, data, CHUNK if treatment == 'planned' else 0, goes_on)
    update = Update(CONFIG.with_changes(terminal_windows=kept), seed)
    for _ in range(updates):
        batch = replay.sample(CONFIG.batch_size, random)
        batch = batch if bootstrap else with_known_value(batch)
        update.step(with_tails(batch, treatment, update))
    return update


@torch.no_grad()
def errors_near_the_end(update: Update, signs: str, episodes: int, seed: int) -> np.ndarray:
    """Return ``Q_hat - Q_true``, (n,), on new episodes, at their last CHUNK - 1 steps.

    Q_hat is the moving average of the critics: without the noise of the last optimizer steps.
    """
    states, chunks = near_the_end(draw_episodes(episodes, signs, np.random.default_rng(seed)))
    observed = torch.from_numpy(one_hot(states))
    values = update.networks.target_critic(observed, torch.from_numpy(chunks)[:, :, None])
    return values[:, 0].numpy() - true_q(states, chunks)


def expected_bias(treatment: str, signs: str, episodes: int, seed: int) -> float:
    """Return the mean of ``limit - Q_true`` on the same episodes."""
    states, chunks = near_the_end(draw_episodes(episodes, signs, np.random.default_rng(seed)))
    return float((limit(states, chunks, treatment, signs) - true_q(states, chunks)).mean())
