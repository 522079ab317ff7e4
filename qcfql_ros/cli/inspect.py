# SPDX-License-Identifier: Apache-2.0
"""Say whether recordings can be learned from, before a night is spent on them.

With --contract: the regularity of each topic, the episodes and their outcomes, the steps, the
windows, the range of each number, and a verdict. The exit status is 0 if every recording is fit, 1
if one is not. Without: what is in them. docs/inspect.md explains every line.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from qcfql_ros.algorithm.config import AlgorithmConfig
from qcfql_ros.cli.inspect_text import full_text, table, verdict
from qcfql_ros.cli.progress import progress_of
from qcfql_ros.cli.report import Value, add_json_argument, write_report
from qcfql_ros.contract import load_contract
from qcfql_ros.contract.schema import Contract
from qcfql_ros.data.bag_folder import find_bags
from qcfql_ros.data.dataset import Progress
from qcfql_ros.data.inspection import inspect_bag, list_bag, unreadable
from qcfql_ros.data.inspection_report import BagReport
from qcfql_ros.errors import BagError, ParameterError

UNFIT = 1
_PICTURES = ('.png', '.svg', '.pdf')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add = parser.add_argument
    add(
        'bags', type=Path, nargs='+', metavar='BAG', help='rosbag2 folder, file, or folder of bags'
    )
    add('--contract', help='name or path of the contract to train under')
    add(
        '--action_chunk_size',
        type=int,
        default=AlgorithmConfig(1, 1).action_chunk_size,
        help='steps in a window (default %(default)s, as qcfql train)',
    )
    add(
        '--picture',
        type=Path,
        metavar='PATH',
        help='draw a time line: a .png, .svg or .pdf file, or a folder with one for each bag',
    )
    add('--short', action='store_true', help='only warnings and verdict')
    add_json_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Inspect; see the module's text."""
    contract = load_contract(arguments.contract) if arguments.contract else None
    chunk = AlgorithmConfig(1, 1, action_chunk_size=arguments.action_chunk_size).window_steps
    for path in arguments.bags:
        if not path.exists():
            raise BagError(f'no recording at {path}; want a rosbag2 folder or one of its files')
    bags = find_bags(arguments.bags)
    _check_picture(arguments.picture, contract, len(bags))
    reports = []
    for number, path in enumerate(bags):
        with progress_of(f'reading {path.name}') as progress:
            report = _inspect(path, contract, chunk, progress)
        reports.append(report)
        if number:
            print()
        if arguments.short and contract is not None:
            print('\n'.join([str(path), *verdict(report)]), flush=True)
        else:
            print(full_text(report, contract, chunk), flush=True)
        if arguments.picture is not None and contract is not None and report.files:
            _draw(arguments.picture, report, contract)
    if len(reports) > 1 and contract is not None:
        print('\n' + '\n'.join(table(reports)))
    write_report(arguments.json, flat_report(reports, contract))
    return 0 if all(report.fit for report in reports) else UNFIT


def _inspect(path: Path, contract: Contract | None, chunk: int, progress: Progress) -> BagReport:
    try:
        if contract is None:
            return list_bag(path, progress)
        return inspect_bag(path, contract, chunk, progress=progress)
    except BagError as error:
        return unreadable(path, str(error))


def _check_picture(path: Path | None, contract: Contract | None, bags: int) -> None:
    """Refuse what could only fail later; raises ParameterError, ModuleNotFoundError."""
    if path is None:
        return
    if contract is None:
        raise ParameterError('--picture needs --contract, which says what belongs into it')
    if path.suffix in _PICTURES:
        if bags > 1:
            raise ParameterError(f'--picture {path} is one file for {bags} bags; give a folder')
    elif path.is_file() or path.suffix:
        raise ParameterError(
            f'--picture {path}: wanted a folder, or a file that ends in {", ".join(_PICTURES)}'
        )
    importlib.import_module('matplotlib')


def _draw(path: Path, report: BagReport, contract: Contract) -> None:
    from qcfql_ros.cli.inspect_plot import plot_recording

    if path.suffix not in _PICTURES:
        path.mkdir(parents=True, exist_ok=True)
        path = path / f'{report.path.name}.png'
    plot_recording(path, report, contract)
    print(f'picture: {path}')


def flat_report(reports: list[BagReport], contract: Contract | None) -> dict[str, Value]:
    """Return the report as one flat object: totals, then each bag's values under ``bagN.``."""
    steps = [report.steps for report in reports if report.steps is not None]
    flat: dict[str, Value] = {'bags': len(reports)}
    if contract is not None:
        flat |= {
            'contract': contract.name,
            'contract_hash': contract.hash,
            'fit': all(report.fit for report in reports),
            'steps': sum(one.steps for one in steps),
            'windows': sum(one.windows for one in steps),
            'episodes': sum(sum(one.outcomes.values()) for one in steps),
            'success': sum(one.outcomes['success'] for one in steps),
        }
    for number, report in enumerate(reports):
        values = _bag_values(report, contract is not None)
        flat |= {f'bag{number}.{name}': value for name, value in values.items()}
    return flat


def _bag_values(report: BagReport, judged: bool) -> dict[str, Value]:
    values: dict[str, Value] = {
        'path': str(report.path),
        'recorded_contract': report.contract,
        'recorded_contract_hash': report.contract_hash,
        'seconds': report.seconds,
        'bytes': report.size,
        'messages': report.messages,
        'damage_stretches': len(report.damage.skips),
        'damage_messages': report.damage.messages,
        'damage_seconds': report.damage.seconds,
        'damage_bytes': report.damage.size,
    }
    for topic in report.topics:
        at = f'topic.{topic.topic}'
        values |= {
            f'{at}.type': topic.type,
            f'{at}.messages': topic.messages,
            f'{at}.rate_hz': topic.rate_hz,
            f'{at}.interval_p50_s': topic.p50_s,
            f'{at}.interval_p99_s': topic.p99_s,
            f'{at}.longest_s': topic.longest_s,
        }
        if judged:
            values |= {
                f'{at}.needs_hz': topic.needs_hz,
                f'{at}.gaps': topic.gaps,
                f'{at}.stale_share': topic.stale,
                f'{at}.offset_s': topic.offset_s,
                f'{at}.largest_offset_s': topic.largest_offset_s,
                f'{at}.beyond_tolerance': topic.beyond_tolerance,
                f'{at}.bad_messages': topic.bad_messages,
            }
    if not judged:
        return values
    values |= {'fit': report.fit}
    values |= {f'unfit.{i}': line for i, line in enumerate(report.unfit)}
    values |= {f'warning.{i}': line for i, line in enumerate(report.warnings)}
    values |= {f'counter.{name}': count for name, count in report.counters.items()}
    steps = report.steps
    if steps is None:
        return values
    values |= {
        'steps': steps.steps,
        'segments': len(steps.segments),
        'windows': steps.windows,
        'episodes': sum(steps.outcomes.values()),
        'episodes_without_end': steps.unfinished,
        'terminated': steps.terminated,
        'reward_mean': steps.reward_mean,
    }
    values |= {f'outcome.{name}': count for name, count in steps.outcomes.items()}
    values |= {f'segment_end.{name}': count for name, count in steps.ends.items()}
    for what, numbers in (('action', steps.action), ('state', steps.state)):
        for one in numbers:
            at = f'{what}.{one.name}'
            values |= {f'{at}.min': one.low, f'{at}.max': one.high}
            values |= {f'{at}.mean': one.mean, f'{at}.std': one.std}
            if what == 'action':
                values |= {f'{at}.at_limits': one.at_limits, f'{at}.outside': one.outside}
    return values
