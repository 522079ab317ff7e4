# SPDX-License-Identifier: Apache-2.0
"""What the learner node reads and makes when it starts."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rclpy.qos import QoSProfile

from qcfql_ros.contract import load_contract
from qcfql_ros.contract.schema import Contract
from qcfql_ros.contract.topics import absolute
from qcfql_ros.data.bag_metadata import Topic
from qcfql_ros.data.dataset import check_contract
from qcfql_ros.data.recorder import BagRecorder
from qcfql_ros.data.session_mark import SESSION_TYPE, session_topic
from qcfql_ros.data.spool import Spool
from qcfql_ros.data.step_log import StepLog
from qcfql_ros.errors import ParameterError
from qcfql_ros.nodes.qos import RECORD_QOS, command_qos, sensor_qos
from qcfql_ros.nodes.recorded_topics import QUEUE
from qcfql_ros.nodes.recording import Recording
from qcfql_ros.training.file_headers import check_contract_of, read_state_header
from qcfql_ros.training.link import TrainerLink

MEGABYTE = 1_000_000
# A robot in lockstep waits for what is made of its ticks; one on the wall clock does not.
WRITE_S = {'lockstep': 0.02, 'wall': 0.2}


def read_inputs(settings: Any) -> tuple[Path, Contract]:
    """Return the run's folder and the contract, before anything is written.

    Raises:
        QcfqlError: a setting, or a file that it names, is wrong.
    """
    if not settings.run_dir:
        raise ParameterError("run_dir: got '', wanted the folder of this run")
    run_dir = Path(settings.run_dir).expanduser()
    contract = load_contract(settings.contract)
    if settings.pacing == 'lockstep':
        contract.require_stamps()
    if settings.learn:
        contract.require_no_images_for_training()
        if settings.model:
            check_contract_of(settings.model, read_state_header(settings.model), contract)
        for bag in bags(settings.demos):
            check_contract(Path(bag), contract)
            if settings.keep_mb and Path(bag).resolve() == (run_dir / 'bag').resolve():
                raise ParameterError(
                    f'keep_mb: got {settings.keep_mb} with the bag of this run among the demos '
                    f'({bag}), wanted 0: demonstrations are never deleted'
                )
    return run_dir, contract


def expected_profiles(contract: Contract, namespace: str, pacing: str) -> dict[str, QoSProfile]:
    """Return the profile to begin listening with, by absolute topic name."""
    profiles = dict.fromkeys(contract.recorded_topics(namespace), RECORD_QOS)
    for stream in (*contract.streams.values(), *contract.images.values()):
        profiles[absolute(stream.topic, namespace)] = _deep(sensor_qos(pacing))
    for command in contract.action.commands:
        profiles[absolute(command.topic, namespace)] = _deep(command_qos(pacing))
    return profiles


def open_recording(
    settings: Any,
    run_dir: Path,
    contract: Contract,
    namespace: str,
    wake: Callable[[], None],
    sim_clock: Callable[[], int] | None = None,
) -> tuple[Recording, BagRecorder]:
    """Recover the bag of this run if need be, and begin a session in it.

    Args:
        settings: of the node.
        run_dir: where it writes.
        contract: what is recorded.
        namespace: of the robot.
        wake: called when something was written.
        sim_clock: time of receipt in ns, where it is not the system's; the session then begins
            with the first message.

    Raises:
        QcfqlError: the bag cannot be gone on with.
    """
    topics = [Topic(name, kind) for name, kind in contract.recorded_topics(namespace).items()]
    recorder = BagRecorder(
        run_dir / 'bag',
        [*topics, Topic(session_topic(namespace), SESSION_TYPE)],
        contract_name=contract.name,
        contract_hash=contract.hash,
        namespace=namespace,
        split_bytes=settings.split_mb * MEGABYTE,
        split_s=settings.split_s,
        keep_bytes=settings.keep_mb * MEGABYTE,
    )
    recording = Recording(
        recorder,
        Spool(settings.spool_mb * MEGABYTE, settings.spool_s),
        contract,
        namespace,
        StepLog(run_dir / 'steps.csv'),
        write_s=WRITE_S[settings.pacing],
        capacity=settings.capacity if settings.learn else None,
        wake=wake,
        clock=sim_clock or time.time_ns,
        begun=sim_clock is None,
    )
    return recording, recorder


def start_trainer(
    settings: Any, run_dir: Path, contract: Contract, version: int | None
) -> TrainerLink:
    """Start a trainer process.

    Args:
        settings: of the node.
        run_dir: where it writes.
        contract: what steps mean.
        version: of the last policy of a trainer before this one, whose versions are spent.
    """
    arguments: dict[str, Any] = {
        '--contract': contract.file,
        '--run-dir': str(run_dir),
        '--capacity': settings.capacity,
        '--utd-ratio': settings.utd_ratio,
        '--warmup-steps': settings.warmup_steps,
        '--publish-every-s': settings.publish_every_s,
        '--demo-fraction': settings.demo_fraction,
        '--behavior-weighting': settings.behavior_weighting,
        '--seed': settings.seed,
    }
    if version is not None:
        arguments['--policy-version'] = version
    if settings.model:
        arguments['--state'] = settings.model
    words = [str(text) for pair in arguments.items() for text in pair]
    if settings.demos:
        words += ['--demos', *bags(settings.demos)]
    return TrainerLink.start(words)


def bags(demos: str) -> list[str]:
    """Return the folders that the setting `demos` names."""
    return [path for path in demos.split(os.pathsep) if path]


def policies_beside(model: str) -> list[Path]:
    """Return the files that the policy node may have been started from."""
    return sorted(Path(model).parent.glob('*.safetensors')) if model else []


def _deep(profile: QoSProfile) -> QoSProfile:
    """Return the same profile with a queue for a recorder."""
    return QoSProfile(depth=QUEUE, reliability=profile.reliability, durability=profile.durability)
