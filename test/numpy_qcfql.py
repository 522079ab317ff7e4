# SPDX-License-Identifier: Apache-2.0
"""QC-FQL in plain NumPy float64, written from the formulas alone, to hold the package against.

Sources: Li, Zhou and Levine 2025 (arXiv 2507.07969); Park et al. 2025 (FQL) for
`normalize_q_loss`; Lipman et al. 2022, eq. 22 and 23, for sigma; Wang et al. 2020 (CRR) for value
weights; Kingma and Ba 2015 for Adam. Slow on purpose: one ensemble member, one Euler step and one
candidate after the other.

Weights are a dict of float64 arrays under the names of ``Networks.named_parameters()``: network,
then ``kernels`` (in, out), ``biases``, ``norm_scales`` and ``norm_biases``; critics have an
ensemble axis in front. Batch and noise are `NumpyBatch` and `NumpyNoise`; settings come as an
`AlgorithmConfig`, of which only the values are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

LAYER_NORM_EPS = 1e-6
LARGEST_VALUE_WEIGHT = 20.0
Weights = dict[str, np.ndarray]


class NumpyBatch(NamedTuple):
    """The fields of `Batch`, float64 and bool."""

    state: np.ndarray
    chunk: np.ndarray
    valid: np.ndarray
    tail_unknown: np.ndarray
    reward: np.ndarray
    bootstrap: np.ndarray
    next_state: np.ndarray
    weight: np.ndarray


class NumpyNoise(NamedTuple):
    """The fields of `Noise`, float64."""

    flow_start: np.ndarray
    flow_time: np.ndarray
    policy: np.ndarray
    next_policy: np.ndarray
    candidates: np.ndarray | None


# --- networks -----------------------------------------------------------------------------------


def gelu(x):
    """Return GELU in its tanh form."""
    return 0.5 * x * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)))


def layer_norm(x, scale, bias):
    """Normalise each row to mean 0 and variance 1, then scale and shift."""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    return centred / np.sqrt(variance + LAYER_NORM_EPS) * scale + bias


def perceptron(weights: Weights, network: str, x, member: int | None = None):
    """Dense, GELU, LayerNorm (where it has weights) for each hidden layer; then Dense alone."""

    def part(kind: str, layer: int):
        array = weights.get(f'{network}.network.{kind}.{layer}')
        return array if array is None or member is None else array[member]

    last = sum(name.startswith(f'{network}.network.kernels.') for name in weights) - 1
    for layer in range(last):
        x = gelu(x @ part('kernels', layer) + part('biases', layer))
        if part('norm_scales', layer) is not None:
            x = layer_norm(x, part('norm_scales', layer), part('norm_biases', layer))
    return x @ part('kernels', last) + part('biases', last)


def flat(chunk):
    """Return chunks as rows, step after step."""
    return chunk.reshape(len(chunk), -1)


def velocity(weights: Weights, state, x, time):
    """Return v(s, x_t, t), (batch, chunk, action_dim)."""
    inputs = np.concatenate([state, flat(x), time.reshape(-1, 1)], axis=1)
    return perceptron(weights, 'behavior', inputs).reshape(x.shape)


def flow_sample(weights: Weights, state, noise, num_steps: int):
    """Follow the flow from noise by Euler at t_i = i/T; clip once, at the end."""
    x = noise
    for i in range(num_steps):
        x = x + velocity(weights, state, x, np.full(len(x), i / num_steps)) / num_steps
    return np.clip(x, -1.0, 1.0)


def one_step_policy(weights: Weights, state, noise):
    """Return mu(s, z), not clipped."""
    inputs = np.concatenate([state, flat(noise)], axis=1)
    return perceptron(weights, 'policy', inputs).reshape(noise.shape)


def critic_values(weights: Weights, which: str, state, chunk):
    """Return Q_k(s, chunk), (members, batch), of `critic` or `target_critic`."""
    inputs = np.concatenate([state, flat(chunk)], axis=1)
    members = len(weights[f'{which}.network.kernels.0'])
    return np.stack([perceptron(weights, which, inputs, k)[:, 0] for k in range(members)])


def aggregate(values, how: str, pessimism: float):
    """Turn (members, batch) into one value a sample; the deviation is the population's."""
    mean = values.mean(axis=0)
    if how == 'min':
        return values.min(axis=0)
    if how == 'mean':
        return mean
    return mean - pessimism * np.sqrt(((values - mean) ** 2).mean(axis=0))


def best_of_n(weights: Weights, state, candidates, config):
    """Return for each state the flow sample with the highest aggregated online value."""
    best, highest = None, None
    for n in range(candidates.shape[1]):
        num_steps = config.flow_matching_num_inference_steps
        sample = flow_sample(weights, state, candidates[:, n], num_steps)
        values = critic_values(weights, 'critic', state, sample)
        value = aggregate(values, config.critic_aggregation, config.pessimism)
        if best is None:
            best, highest = sample, value
        else:
            better = value > highest
            best = np.where(better[:, None, None], sample, best)
            highest = np.where(better, value, highest)
    return best


# --- what enters the losses without gradient ----------------------------------------------------


@dataclass(frozen=True)
class Fixed:
    """Numbers that no gradient flows through, made once from the weights before the step."""

    teacher: np.ndarray  # (batch, chunk, action_dim): flow(s, z), clipped
    chunk: np.ndarray  # (batch, chunk, action_dim): unknown tails filled from the teacher
    value_weights: np.ndarray  # (batch,)
    target: np.ndarray  # (batch,)
    q_scale: float


def fixed_numbers(weights: Weights, batch: NumpyBatch, noise: NumpyNoise, config) -> Fixed:
    num_steps = config.flow_matching_num_inference_steps
    teacher = flow_sample(weights, batch.state, noise.policy, num_steps)
    chunk = np.where(batch.tail_unknown[:, :, None], teacher, batch.chunk)
    behavior_weights = np.ones(len(batch.state))
    if config.behavior_weighting == 'value':
        behavior_weights = value_weights(weights, batch.state, chunk, teacher, config)
    q_scale = 1.0
    if config.normalize_q_loss:
        action = np.clip(one_step_policy(weights, batch.state, noise.policy), -1.0, 1.0)
        q = critic_values(weights, 'critic', batch.state, action).mean(axis=0)
        q_scale = 1.0 / np.abs(q).mean()
    target = critic_target(weights, batch, noise, config)
    return Fixed(teacher, chunk, behavior_weights, target, q_scale)


def value_weights(weights: Weights, state, chunk, sample, config):
    """Return min(20, exp(A / temperature)) over its mean; A = Qbar(chunk) - Qbar(sample)."""
    recorded, own = (
        aggregate(
            critic_values(weights, 'target_critic', state, x),
            config.critic_aggregation,
            config.pessimism,
        )
        for x in (chunk, sample)
    )
    raw = np.exp((recorded - own) / config.behavior_temperature)
    raw = np.minimum(raw, LARGEST_VALUE_WEIGHT)
    return raw / raw.mean()


def critic_target(weights: Weights, batch: NumpyBatch, noise: NumpyNoise, config):
    """Return R + discount^n m agg_k Qbar_k(s', a')."""
    if config.actor == 'best_of_n':
        action = best_of_n(weights, batch.next_state, noise.candidates, config)
    else:
        proposal = one_step_policy(weights, batch.next_state, noise.next_policy)
        action = np.clip(proposal, -1.0, 1.0)
    values = critic_values(weights, 'target_critic', batch.next_state, action)
    value = aggregate(values, config.critic_aggregation, config.pessimism)
    return batch.reward + batch.bootstrap * value


# --- losses -------------------------------------------------------------------------------------


def behavior_loss(weights: Weights, batch: NumpyBatch, noise: NumpyNoise, config, fixed: Fixed):
    """Flow matching; masked entries count in the mean's denominator."""
    sigma, time = config.flow_matching_sigma, noise.flow_time[:, None, None]
    x_t = (1.0 - (1.0 - sigma) * time) * noise.flow_start + time * fixed.chunk
    wanted = fixed.chunk - (1.0 - sigma) * noise.flow_start
    error = (velocity(weights, batch.state, x_t, noise.flow_time) - wanted) ** 2
    return (error * batch.valid[:, :, None] * fixed.value_weights[:, None, None]).mean()


def critic_loss(weights: Weights, batch: NumpyBatch, noise: NumpyNoise, config, fixed: Fixed):
    """Squared distance to the target; windows of weight 0 count in the denominator."""
    values = critic_values(weights, 'critic', batch.state, fixed.chunk)
    return ((values - fixed.target) ** 2 * batch.weight).mean()


def policy_loss(weights: Weights, batch: NumpyBatch, noise: NumpyNoise, config, fixed: Fixed):
    """alpha mean (mu - teacher)^2 - scale mean Q(s, clip(mu)); nothing to learn for best_of_n."""
    if config.actor == 'best_of_n':
        return 0.0
    student = one_step_policy(weights, batch.state, noise.policy)
    distillation = ((student - fixed.teacher) ** 2).mean()
    q = critic_values(weights, 'critic', batch.state, np.clip(student, -1.0, 1.0)).mean()
    return config.distillation_weight * distillation - fixed.q_scale * q


LOSSES = {'behavior': behavior_loss, 'critic': critic_loss, 'policy': policy_loss}


# --- the step -----------------------------------------------------------------------------------


def moving_average(target, online, tau: float):
    return tau * online + (1.0 - tau) * target


def adam_step(weight, gradient, first, second, count: int, learning_rate: float, corrections):
    """Return (weight, first moment, second moment) after step `count`, counted from 1."""
    first = 0.9 * first + 0.1 * gradient
    second = 0.999 * second + 0.001 * gradient**2
    unbiased_first, unbiased_second = (
        moment / (1.0 - beta**count if corrections == 'exact' else float32_correction(beta, count))
        for moment, beta in ((first, 0.9), (second, 0.999))
    )
    step = learning_rate * unbiased_first / (np.sqrt(unbiased_second) + 1e-8)
    return weight - step, first, second


def float32_correction(beta: float, count: int) -> float:
    """Return ``1 - beta**count`` with each number on the way rounded to float32, as JAX has it."""
    power = np.float32(np.float64(np.float32(beta)) ** count)
    return float(np.float32(1.0) - power)
