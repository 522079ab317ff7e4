# SPDX-License-Identifier: Apache-2.0
"""Find and read a contract file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from qcfql_ros.contract import topics
from qcfql_ros.contract.load_action import action_names, read_action, read_topic
from qcfql_ros.contract.load_features import read_features, read_streams
from qcfql_ros.contract.load_recordings import read_recordings
from qcfql_ros.contract.load_safety import read_on_stop, read_safety
from qcfql_ros.contract.schema import Contract, OutcomeRule
from qcfql_ros.contract.section import Section, read_yaml
from qcfql_ros.errors import ContractError, nearest

UPSAMPLING = ('hold', 'linear', 'cubic')


def load_contract(path_or_name: str | Path) -> Contract:
    """Return the contract in a YAML file, or the one of that name in ``config/``.

    Raises:
        ContractError: not found, or wrong: names file, key, value got and value wanted.
    """
    path = find_contract(path_or_name)
    file = str(path)
    top = Section(
        file,
        '',
        read_yaml(path),
        ('contract', 'name', 'control', 'streams', 'features', 'action', 'outcome'),
        ('safety', 'on_stop', 'after_crash', 'recordings'),
    )
    if top.data['contract'] != 1:
        raise top.error('contract', '1, the version of this format')
    control = top.section(
        'control',
        ('rate_hz',),
        ('phase', 'stamp_tolerance_s', 'lateness_s', 'command_rate_hz', 'upsampling'),
    )
    rate_hz = control.number('rate_hz', low=0.1, high=1000.0)
    streams = read_streams(top)
    state, images = read_features(top, streams, action_names(top))
    action = read_action(top, streams, state)
    safety = read_safety(top, action, streams, state, 1.0 / rate_hz)
    contract = Contract(
        file=file,
        name=top.text('name'),
        rate_hz=rate_hz,
        phase=control.number('phase', 0.5, 0.0, 1.0),
        stamp_tolerance_s=control.number('stamp_tolerance_s', 0.5, 0.001, 60.0),
        lateness_s=control.number('lateness_s', 2.0, 0.01, 60.0),
        streams=streams,
        state=state,
        images=images,
        action=action,
        outcome=_outcome(top),
        safety=safety,
        commands_per_tick=_commands_per_tick(control, rate_hz),
        upsampling=control.choice('upsampling', UPSAMPLING, 'hold'),
        on_stop=read_on_stop(top, action, safety),
        after_crash=top.choice('after_crash', ('wait', 'resume'), 'wait'),
        recordings=read_recordings(top, streams, action, 1.0 / rate_hz),
    )
    _refuse_shared_topics(contract)
    return contract


def find_contract(path_or_name: str | Path) -> Path:
    """Return the file of a contract given by path or by name.

    Raises:
        ContractError: there is none; names the nearest.
    """
    text = str(path_or_name)
    if text.endswith(('.yaml', '.yml')) or '/' in text:
        path = Path(text).expanduser()
        if not path.is_file():
            raise ContractError(f'contract {text!r}: no such file')
        return path
    known: dict[str, Path] = {}
    for folder in _config_folders():
        for path in sorted(folder.glob('*.yaml')):
            if path.name.endswith('.params.yaml'):
                continue  # of a node
            known.setdefault(path.stem, path)
    if text not in known:
        raise ContractError(
            f'contract {text!r}: not known, wanted a path to a .yaml file or one of '
            f'{", ".join(sorted(known)) or "(none installed)"}{nearest(text, known)}'
        )
    return known[text]


def _config_folders() -> Iterator[Path]:
    """Yield where contracts lie: source checkout, ament share folder, Python's data folder."""
    root = Path(__file__).resolve().parents[2]
    if (root / 'package.xml').is_file() or (root / 'setup.py').is_file():
        yield root / 'config'
    try:
        from ament_index_python.packages import get_package_share_directory

        yield Path(get_package_share_directory('qcfql_ros')) / 'config'
    except (ImportError, LookupError, OSError):
        pass  # no ROS, not installed in it, or AMENT_PREFIX_PATH not set
    yield Path(sys.prefix) / 'share' / 'qcfql_ros' / 'config'
    # pip install --target or --user: the data files lie beside lib/pythonX.Y/site-packages.
    if len(root.parents) > 2:
        yield root.parents[2] / 'share' / 'qcfql_ros' / 'config'
    yield root / 'config'


def _commands_per_tick(control: Section, rate_hz: float) -> int:
    times = control.number('command_rate_hz', rate_hz, 0.1, 10_000.0) / rate_hz
    if round(times) < 1 or abs(times - round(times)) > 1e-6:
        raise control.error('command_rate_hz', f'a whole multiple of rate_hz, {rate_hz:g}')
    return round(times)


def _outcome(top: Section) -> OutcomeRule:
    section = top.section('outcome', ('topic', 'success_timing'), ('failure_reward',))
    return OutcomeRule(
        topic=read_topic(section),
        success_timing=section.choice('success_timing', ('pre', 'post')),
        failure_reward=section.number('failure_reward') if 'failure_reward' in section else None,
    )


def _refuse_shared_topics(contract: Contract) -> None:
    used = [s.topic for s in (*contract.streams.values(), *contract.images.values())]
    used += [command.topic for command in contract.action.commands]
    used += [contract.outcome.topic, topics.STEP_TOPIC, topics.CHUNK_TOPIC]
    used += [topics.WEIGHTS_TOPIC, topics.CREDITS_TOPIC]
    used += contract.recordings.topics() if contract.recordings else ()
    for topic in used:
        if used.count(topic) > 1:
            raise ContractError(
                f'{contract.file}: topic {topic!r} is used twice; each stream, image, command and '
                'outcome needs a topic of its own'
            )
