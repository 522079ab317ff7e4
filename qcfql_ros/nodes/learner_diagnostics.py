# SPDX-License-Identifier: Apache-2.0
"""What the learner says of itself once a second."""

from __future__ import annotations

from typing import Any

from qcfql_ros.nodes.diagnostics import ERROR, OK, WARN
from qcfql_ros.nodes.recording import Recording
from qcfql_ros.nodes.trainer_feed import TrainerFeed


def learner_status(
    recording: Recording, feed: TrainerFeed | None, more: dict[str, Any]
) -> tuple[bytes, str, dict[str, Any]]:
    """Return level, text and values of the status ``learner: training``."""
    counters = recording.assembler.counters
    values: dict[str, Any] = {
        'steps': counters['steps'],
        'segments': counters['segments'],
        'episodes': counters['episodes'],
        'messages': counters['messages'],
        'dropped_steps': sum(n for k, n in counters.items() if k.startswith('dropped_')),
    }
    values |= recording.values() | more
    values |= {k: n for k, n in sorted(counters.items()) if k not in values and n}
    values |= {f'ended_{kind}': n for kind, n in sorted(recording.outcomes.items())}
    level, text = OK, 'recording'
    if feed is not None:
        status = feed.status
        text = 'loading' if feed.loading else 'learning'
        for key in ('buffer', 'updates', 'updates_per_s'):
            values[key] = _short(status.get(key, 0))
        values['policy_version'] = feed.policy.get('version', status.get('policy_version', 0))
        values['trainer_restarts'] = feed.restarts
        values |= {name: _short(loss) for name, loss in status.get('losses', {}).items()}
        if status.get('warning'):
            level, text = WARN, status['warning']
        if status.get('stopped'):
            level, text = ERROR, f'learning stopped: {status["stopped"]}'
        if status.get('disk_error'):
            level, text = ERROR, status['disk_error']
    if recording.log_failed:
        level, text = WARN, recording.log_failed
    if recording.stopped:
        level, text = ERROR, recording.stopped
    return level, text, values


def _short(value: Any) -> str:
    return f'{value:.4g}' if isinstance(value, float) else str(value)
