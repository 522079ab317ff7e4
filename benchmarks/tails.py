#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the tail of a chunk behind a termination does to Q: treatments against an exact Q.

    python benchmarks/tails.py [--quick] [--json PATH] [--seeds 5] [--bootstrap]

The chain of ``test/chain_task.py``. bias: mean of Q_hat - Q_true at the last h - 1 = 2 steps of
new episodes, mean over seeds with its standard error; least, most: over seeds; limit: the bias
that least squares tends to, in closed form. A step costs 1. `--bootstrap` learns the value
behind a window too, so that the error comes back through the target. No limit is given then, nor
where a tail is partly chosen by the prefix.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'test'))

from chain_task import SIGNS, TREATMENTS, errors_near_the_end, expected_bias, fit

EPISODES = 3000


def measure(
    treatment: str, signs: str, updates: int, seeds: int, bootstrap: bool
) -> dict[str, float]:
    """Return one row of the table."""
    biases = []
    for seed in range(seeds):
        update = fit(treatment, signs, EPISODES, updates, seed, bootstrap)
        biases.append(float(errors_near_the_end(update, signs, 1000, seed + 100).mean()))
    values = np.array(biases)
    error = values.std(ddof=1) / np.sqrt(seeds) if seeds > 1 else float('nan')
    row = {'bias': values.mean(), 'error': error, 'least': values.min(), 'most': values.max()}
    prefix_matters = signs == 'coherent' and treatment in ('planned', 'pinned', 'nearest')
    if not bootstrap and not prefix_matters:
        row['limit'] = expected_bias(treatment, signs, 5000, 0)
    return {name: round(float(value), 3) for name, value in row.items()}


def main() -> int:
    """Run all and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--quick', action='store_true', help='one seed, signs of one kind')
    parser.add_argument('--json', type=Path, help='write a flat object, name to number')
    parser.add_argument('--seeds', type=int, default=5)
    parser.add_argument('--updates', type=int, help='500, with --bootstrap 1500')
    parser.add_argument('--bootstrap', action='store_true')
    parser.add_argument('--signs', nargs='+', choices=SIGNS, default=SIGNS)
    parser.add_argument('--treatments', nargs='+', choices=list(TREATMENTS), default=TREATMENTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    seeds = 1 if options.quick else options.seeds
    updates = options.updates or (1500 if options.bootstrap else 500)
    flat: dict[str, float] = {'seeds': seeds, 'updates': updates}
    print(
        f'{updates} updates, {seeds} seeds, value behind a window: '
        f'{"learned" if options.bootstrap else "known"}'
    )
    print(
        f'{"signs":12} {"tails":10} {"bias":>8} {"error":>7} {"least":>7} {"most":>7} {"limit":>7}'
    )
    for signs in options.signs[:1] if options.quick else options.signs:
        for treatment in options.treatments:
            row = measure(treatment, signs, updates, seeds, options.bootstrap)
            cells = [f'{row.get(name, float("nan")):7.3f}' for name in row]
            print(f'{signs:12} {treatment:10} ', *cells, flush=True)
            flat |= {f'{signs}_{treatment}_{name}_cost': value for name, value in row.items()}
    if options.json:
        options.json.write_text(json.dumps(flat, indent=2) + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
