# SPDX-License-Identifier: Apache-2.0
"""Write a reference file: one update that the authors' own code computes on known numbers.

Runs in an environment of its own (``test/data/README.md`` has the versions), with a checkout of
GitHub ColinQiyangLi/qc:

    python tools/make_reference.py --qc path/to/qc --out reference_x.npz --critics 4 --q-agg min

Weights, batch and noise are random; losses, gradients, the Adam step, the moving average, samples
and Q values are what their code makes of them: nothing of this package is imported. With
``--inputs FILE`` settings, weights, batch and noise come from a reference file, and how far its
results are from those of this run is printed.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

jax.config.update('jax_default_matmul_precision', 'highest')

Arrays = dict[str, np.ndarray]


def main() -> None:
    """Make one file."""
    arguments = parse()
    sys.path.insert(0, str(arguments.qc))
    if arguments.inputs:
        with np.load(arguments.inputs) as given:
            inputs = {key: given[key] for key in given.files}
        settings = ast.literal_eval(str(inputs['settings']))
    else:
        settings = settings_of(arguments)
        inputs = random_inputs(settings, arguments)
    agent, weights = make_agent(settings, inputs, arguments.seed)
    results = run(agent, inputs)
    if arguments.inputs:
        far = {key: distance(value, inputs[key]) for key, value in results.items()}
        for key in sorted(far, key=lambda key: -far[key]):
            print(f'{far[key]:.1e}  {key}')
        return
    chosen = {key: value for key, value in inputs.items() if key.startswith(('batch/', 'noise/'))}
    made_with = {name: version(name) for name in ('jax', 'jaxlib', 'flax', 'optax', 'numpy')}
    made_with['qc'] = commit(arguments.qc)
    texts = {'settings': np.array(str(settings)), 'made_with': np.array(str(made_with))}
    np.savez_compressed(arguments.out, **weights, **chosen, **results, **texts)
    print(f'{arguments.out}: {arguments.out.stat().st_size} bytes, made with {made_with}')


def parse() -> argparse.Namespace:
    """Return the arguments; the defaults are those of reference_a."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--qc', type=Path, required=True, help="checkout of the authors' code")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument('--out', type=Path, help='file to write')
    where.add_argument('--inputs', type=Path, help='run the inputs of this file once more')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--batch-size', type=int, default=16)
    parser.add_argument('--state-dim', type=int, default=6)
    parser.add_argument('--action-dim', type=int, default=2)
    parser.add_argument('--horizon', type=int, default=3)
    parser.add_argument('--critics', type=int, default=2)
    parser.add_argument('--hidden', type=int, nargs='+', default=[32, 32])
    parser.add_argument('--q-agg', choices=('mean', 'min'), default='mean')
    parser.add_argument('--alpha', type=float, default=100.0)
    parser.add_argument('--discount', type=float, default=0.99)
    parser.add_argument('--flow-steps', type=int, default=10)
    parser.add_argument('--actor-type', choices=('distill-ddpg', 'best-of-n'))
    parser.add_argument('--actor-num-samples', type=int, default=8)
    parser.add_argument('--n-step', action='store_true', help='action_chunking: False')
    arguments = parser.parse_args()
    if arguments.batch_size < 2 * arguments.horizon + 1:
        parser.error('--batch-size: want 2 * horizon + 1, a window for each end at each position')
    return arguments


def settings_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the settings by the authors' names."""
    return {
        'horizon_length': arguments.horizon,
        'action_dim': arguments.action_dim,
        'num_qs': arguments.critics,
        'hidden': tuple(arguments.hidden),
        'q_agg': arguments.q_agg,
        'alpha': arguments.alpha,
        'discount': arguments.discount,
        'flow_steps': arguments.flow_steps,
        'actor_type': arguments.actor_type or 'distill-ddpg',
        'actor_num_samples': arguments.actor_num_samples,
        'action_chunking': not arguments.n_step,
        'lr': 3e-4,
        'tau': 0.005,
        'layer_norm_eps': 1e-6,
    }


def random_inputs(settings: dict[str, Any], arguments: argparse.Namespace) -> Arrays:
    """Return a batch and noise."""
    generator = np.random.default_rng(arguments.seed)
    size, horizon = arguments.batch_size, settings['horizon_length']
    rows, count = size * horizon, settings['actor_num_samples']
    flat = settings['action_dim'] * (horizon if settings['action_chunking'] else 1)

    def normal(*shape: int) -> np.ndarray:
        return generator.standard_normal(shape).astype(np.float32)

    masks, terminals = np.ones(rows), np.zeros(rows)
    for window in range(size):  # no end; then each position, by termination and by time-out
        position, truncated = divmod(window % (2 * horizon + 1) - 1, 2)
        if position >= 0:
            terminals[window * horizon + position] = 1.0
            masks[window * horizon + position] = float(truncated)
    steps = {
        'observations': normal(rows, arguments.state_dim),
        'next_observations': normal(rows, arguments.state_dim),
        'actions': generator.uniform(-1, 1, (rows, settings['action_dim'])).astype(np.float32),
        'rewards': normal(rows),
        'masks': masks,
        'terminals': terminals,
    }
    candidates = settings['actor_type'] == 'best-of-n'
    return {
        **their_windows(steps, size, horizon, settings['discount']),
        'noise/critic_next_action': normal(size, count, flat)
        if candidates
        else normal(size, flat),
        'noise/flow_x0': normal(size, flat),
        'noise/flow_t': generator.uniform(0, 1, (size, 1)).astype(np.float32),
        'noise/policy': normal(size, flat),
        'noise/best_of_n': normal(size, count, flat),
    }


def their_windows(steps: Arrays, size: int, horizon: int, discount: float) -> Arrays:
    """Return the windows that begin at each `horizon`-th step, by their sampler."""
    from utils.datasets import Dataset

    starts = np.arange(size) * horizon
    with mock.patch.object(np.random, 'randint', return_value=starts):
        windows = Dataset.create(**steps).sample_sequence(size, horizon, discount)
    names = ('observations', 'actions', 'rewards', 'masks', 'terminals', 'valid')
    return {
        f'batch/{name}': np.asarray(windows[name], np.float32)
        for name in (*names, 'next_observations')
    }


def make_agent(settings: dict[str, Any], inputs: Arrays, seed: int) -> tuple[Any, Arrays]:
    """Return their agent and its weights: those of `inputs`, else its own and some noise.

    Noise, because biases of 0, scales of 1 and target critics equal to the critics would hide
    a mistake in any of them.
    """
    from agents.acfql import ACFQLAgent, get_config

    config = get_config()
    defaults = {'actor_type': 'distill-ddpg', 'action_chunking': True}
    for name, value in {**defaults, **settings}.items():
        if name in ('hidden', 'layer_norm_eps', 'action_dim'):
            continue  # not theirs by this name
        with config.unlocked():
            config[name] = value
    config.actor_hidden_dims = config.value_hidden_dims = settings['hidden']
    state, actions = inputs['batch/observations'][0], inputs['batch/actions'][0, 0]
    agent = ACFQLAgent.create(seed, state, actions, config)
    generator = np.random.default_rng(seed + 1)
    weights = {}
    for key, value in flatten_dict(agent.network.params, sep='/').items():
        noise = 0.02 * generator.standard_normal(value.shape)
        ours = inputs.get(f'params/{key}')
        weights[key] = np.asarray(value + noise, np.float32) if ours is None else ours
    params = unflatten_dict({key: jax.numpy.asarray(w) for key, w in weights.items()}, sep='/')
    agent = agent.replace(network=agent.network.replace(params=params))
    return agent, {f'params/{key}': value for key, value in weights.items()}


def known(*draws: np.ndarray) -> Any:
    """Let their draws give `draws`, in the order in which their code asks for them."""
    left = list(draws)
    jax.clear_caches()  # a function that was compiled before would keep its earlier numbers

    def instead_of(original: Any) -> Any:
        def draw(key: Any, shape: tuple[int, ...], *more: Any) -> jax.Array:
            if more:  # a Dense layer that compares its weight's shape with an initial one
                return original(key, shape, *more)
            number = jax.numpy.asarray(left.pop(0))
            assert number.shape == tuple(shape), f'they draw {shape}, given {number.shape}'
            return number

        return draw

    their = jax.random
    return mock.patch.multiple(
        their, normal=instead_of(their.normal), uniform=instead_of(their.uniform)
    )


def run(agent: Any, inputs: Arrays) -> Arrays:
    """Return what their code makes of weights, batch and noise."""
    batch = {
        name.removeprefix('batch/'): jax.numpy.asarray(value)
        for name, value in inputs.items()
        if name.startswith('batch/')
    }
    draws = [inputs[f'noise/{name}'] for name in ('critic_next_action', 'flow_x0', 'flow_t')]
    if agent.config['actor_type'] == 'distill-ddpg':
        draws.append(inputs['noise/policy'])

    def loss(params: Any) -> Any:
        return agent.total_loss(batch, params, rng=jax.random.PRNGKey(0))

    with known(*draws):
        (total, info), gradients = jax.value_and_grad(loss, has_aux=True)(agent.network.params)
    # What their `update` does with its gradients, which it does not return.
    network = agent.network.apply_gradients(grads=gradients)
    agent.target_update(network, 'critic')
    with known(*draws):
        updated, _ = agent.update(batch)
    far = tree_distance(updated.network.params, network.params)
    print(f'their update() in one piece gives weights {far:.1e} away')
    state, policy = batch['observations'], inputs['noise/policy']
    actions = batch['actions'].reshape(len(state), -1)[:, : policy.shape[1]]
    chooser = agent.replace(config=agent.config.copy({'actor_type': 'best-of-n'}))
    with known(inputs['noise/best_of_n']):
        chosen = chooser.sample_actions(state, rng=jax.random.PRNGKey(0))
    results = {
        **flatten_dict({'grads': gradients, 'updated': network.params}, sep='/'),
        'loss/total': total,
        **{f'loss/{name}': value for name, value in info.items()},
        'q': agent.network.select('critic')(state, actions=actions),
        'flow_actions': agent.compute_flow_actions(state, noises=policy),
        'policy_actions_unclipped': agent.network.select('actor_onestep_flow')(state, policy),
        'best_of_n_actions': chosen,
    }
    return {key: np.asarray(value, np.float32) for key, value in results.items()}


def distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return ``max|ours - theirs| / max|theirs|``."""
    return float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-30))


def tree_distance(ours: Any, theirs: Any) -> float:
    """Return the largest `distance` over two trees of arrays."""
    pairs = zip(jax.tree_util.tree_leaves(ours), jax.tree_util.tree_leaves(theirs), strict=True)
    return max(distance(np.asarray(a), np.asarray(b)) for a, b in pairs)


def commit(checkout: Path) -> str:
    """Return the commit of a checkout, or 'unknown' for a folder without a history."""
    done = subprocess.run(
        ['git', '-C', str(checkout), 'rev-parse', 'HEAD'],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or 'unknown'


if __name__ == '__main__':
    main()
