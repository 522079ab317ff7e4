# SPDX-License-Identifier: Apache-2.0
"""Compare our update with the authors' code, number by number.

Each FILE holds one update that their JAX code computed: weights, batch and noise go into our
update, and losses, gradients, one Adam step, the moving average, samples and Q values are compared
with theirs. The error of a tensor is max|difference| / max|reference|. Adam's step is held to a
tenth of --tolerance. The exit status is 0, or 1 where an error is above its limit.
docs/verification.md says how to make a file.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from qcfql_ros.cli.report import Value, add_json_argument, write_report
from qcfql_ros.errors import ParameterError

if TYPE_CHECKING:
    from qcfql_ros.algorithm.reference_comparison import Item
    from qcfql_ros.algorithm.reference_file import ReferenceFile

DISAGREES = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument('files', nargs='+', type=Path, metavar='FILE', help='reference files')
    parser.add_argument('--tolerance', type=float, default=1e-5, help='1e-5 by default')
    add_json_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Verify; see the module's text."""
    import torch

    from qcfql_ros.algorithm.reference_comparison import compare
    from qcfql_ros.algorithm.reference_file import ReferenceFile

    torch.set_num_threads(1)  # small tensors: threads only wait for each other
    tolerance = arguments.tolerance
    if not (math.isfinite(tolerance) and tolerance > 0.0):
        raise ParameterError(f'--tolerance is {tolerance}; wanted above 0')
    for name, times in Counter(path.stem for path in arguments.files).items():
        if times > 1:  # the report's numbers go by these names
            raise ParameterError(f'{times} files are named {name}; want each name once')
    report: dict[str, Value] = {'tolerance': tolerance, 'items': 0, 'failed': 0}
    failed, count = 0, 0
    for path in arguments.files:
        reference = ReferenceFile(path)
        items = compare(reference, tolerance)
        print(_table(reference, items), flush=True)
        for item in items:
            report[f'{path.stem}_{_slug(item.name)}_error'] = item.error
        failed += sum(not item.agrees for item in items)
        count += len(items)
    report.update(items=count, failed=failed)
    write_report(arguments.json, report)
    print(f'{count - failed} of {count} items agree')
    return DISAGREES if failed else 0


def _table(reference: ReferenceFile, items: list[Item]) -> str:
    config = reference.config
    summary = (
        f'{config.actor}, chunk {config.action_chunk_size}, return {config.window_steps} steps, '
        f'{config.num_critics} critics, {config.critic_aggregation}, '
        f'hidden {" ".join(map(str, config.hidden_dims))}, batch {reference.batch_size}'
    )
    lines = [
        f'{reference.path}: {summary}',
        f'  {"item":<27}{"largest error":>13}  {"limit":>7}          where',
    ]
    for item in items:
        result = 'ok' if item.agrees else 'FAILED'
        figures = f'{item.error:>13.1e}  {item.limit:>7g}'
        lines.append(f'  {item.name:<27}{figures}  {result:<6}  {item.where}')
    return '\n'.join(lines) + '\n'


def _slug(name: str) -> str:
    return name.lower().replace(',', '').replace('-', '_').replace(' ', '_')
