# SPDX-License-Identifier: Apache-2.0
"""What a demo leaves and says at its end, and whether its loop really ran."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from qcfql_ros.cli.demo_view import share
from qcfql_ros.cli.practice import Practice, RecordedPractice, read_practice, write_episodes
from qcfql_ros.cli.report import write_report
from qcfql_ros.contract.schema import Contract
from qcfql_ros.errors import BagError
from qcfql_ros.training.wilson import wilson_interval

LAST = 40


def reasons_not_run(
    recorded: RecordedPractice | None, buffered_steps: float, failure: str
) -> list[str]:
    """Return why the loop did not really run; an empty list means that it did."""
    reasons = [failure] if failure else []
    if recorded is None:
        return reasons or ['the bag cannot be read']
    if not recorded.episodes:
        reasons.append('no episode was finished')
    if not recorded.transitions:
        reasons.append('no transition was recorded in the bag')
    if not buffered_steps:
        reasons.append('no step reached the buffer')
    if len(recorded.policy_versions) < 2:
        reasons.append(
            'the robot executed no new policy version '
            f'(only {", ".join(map(str, recorded.policy_versions)) or "none"})'
        )
    return reasons


def _count_lines(path: Path) -> int:
    """Return the number of lines after the header; 0 without a file."""
    if not path.is_file():
        return 0
    with open(path, 'rb') as file:
        return max(0, sum(1 for _ in file) - 1)


def conclude(
    arguments: argparse.Namespace,
    contract: Contract,
    run_dir: Path,
    practice: Practice,
    failure: str,
) -> int:
    """Read the bag again, write what the run leaves, print it; return the exit status.

    Args:
        arguments: of the verb.
        contract: of the robot.
        run_dir: of the run; gets episodes.csv, pictures and summary.json.
        practice: as counted live, for what the bag cannot tell.
        failure: what went wrong during the run; empty if nothing.
    """
    recorded = None
    try:
        recorded = read_practice(run_dir / 'bag', f'/{contract.outcome.topic}')
    except BagError as error:
        failure = failure or str(error)
    buffered = _count_lines(run_dir / 'steps.csv')
    reasons = reasons_not_run(recorded, buffered, failure)
    episodes = recorded.episodes if recorded else practice.episodes
    write_episodes(run_dir / 'episodes.csv', episodes)
    if recorded and episodes:
        from qcfql_ros.cli.plots import plot_learning_curve, plot_tick_timing

        title = f'{contract.name}: practice of {arguments.minutes:g} min, seed {arguments.seed}'
        plot_learning_curve(run_dir / 'learning_curve.png', episodes, title)
        plot_tick_timing(
            run_dir / 'tick_timing.png',
            recorded.step_s,
            recorded.lateness_s if arguments.wall else None,
            contract.period_ns / 1e9,
        )
    successes = sum(episode.success for episode in episodes)
    last = [episode.success for episode in episodes[-LAST:]]
    low, high = wilson_interval(sum(last), len(last))
    summary = {
        'ran': not reasons,
        'reasons': '; '.join(reasons),
        'minutes': arguments.minutes,
        'pacing': 'wall' if arguments.wall else 'lockstep',
        'seed': arguments.seed,
        'model': arguments.model,
        'episodes': len(episodes),
        'successes': successes,
        f'last_{LAST}_episodes': len(last),
        f'last_{LAST}_successes': sum(last),
        f'last_{LAST}_wilson_low': low,
        f'last_{LAST}_wilson_high': high,
        'ticks': recorded.messages.get(f'/{contract.outcome.topic}', 0) if recorded else 0,
        'transitions': recorded.transitions if recorded else 0,
        'buffered_steps': buffered,
        'policy_versions_executed': len(recorded.policy_versions) if recorded else 0,
        'messages_in_bag': sum(recorded.messages.values()) if recorded else 0,
        'run_dir': str(run_dir),
    }
    write_report(run_dir / 'summary.json', summary)
    write_report(arguments.json, summary)
    shown = Practice()
    shown.episodes = list(episodes)
    _print_summary(summary, shown)
    return 1 if reasons else 0


def _print_summary(summary: dict, practice: Practice) -> None:
    print(f'\nepisodes        {summary["episodes"]}')
    print(f'success, all    {share(practice)}')
    print(f'success, last {LAST} {share(practice, LAST)}')
    print(f'transitions     {summary["transitions"]} in the bag')
    print(f'buffer          {summary["buffered_steps"]} steps')
    print(f'policies        {summary["policy_versions_executed"]} drove the robot')
    print(f'kept in         {summary["run_dir"]}')
    if not summary['ran']:
        print(f'qcfql demo: the loop did not really run: {summary["reasons"]}', file=sys.stderr)
