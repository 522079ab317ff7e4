# SPDX-License-Identifier: Apache-2.0
"""The trainer process: a child of learner_node that owns torch, replay and checkpoints."""

from __future__ import annotations

import argparse
import os
import select
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from qcfql_ros.errors import QcfqlError
from qcfql_ros.training.frames import FrameReader, pack, unpack_events

_UPDATES_A_TURN = 8
_STATUS_EVERY_S = 0.25


def parser() -> argparse.ArgumentParser:
    """Return the arguments that learner_node passes."""
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument('--fd', type=int, required=True, help='socket to learner_node')
    made.add_argument('--nice', type=int, default=5, help='priority below the parent')
    made.add_argument('--contract', required=True)
    made.add_argument('--run-dir', type=Path, required=True)
    made.add_argument('--state', type=Path, help='training state to start from')
    made.add_argument('--demos', type=Path, nargs='*', default=[], help='bags to mix in')
    made.add_argument('--demo-fraction', type=float, default=-1.0, help='-1: uniformly')
    made.add_argument('--behavior-weighting', default='model', help='model: its own')
    made.add_argument('--utd-ratio', type=float, default=1.0)
    made.add_argument('--warmup-steps', type=int, default=1000)
    made.add_argument('--publish-every-s', type=float, default=5.0)
    made.add_argument('--checkpoint-every-s', type=float, default=60.0)
    made.add_argument('--policy-version', type=int, default=0, help='newest one published')
    made.add_argument('--capacity', type=int, default=1_000_000)
    made.add_argument('--threads', type=int, default=1)
    made.add_argument('--device', default='cpu')
    made.add_argument('--seed', type=int, default=0)
    return made


def prepare(arguments: argparse.Namespace) -> Any:
    """Return the `OnlineTraining` of these arguments."""
    import torch

    from qcfql_ros.contract import load_contract
    from qcfql_ros.training.setup import online_training

    torch.set_num_threads(arguments.threads)
    return online_training(arguments, load_contract(arguments.contract))


class Trainer:
    """The loop between the socket and the training."""

    def __init__(self, channel: socket.socket, training: Any) -> None:
        self.channel = channel
        self.training = training
        self.reader = FrameReader()
        self.running = True
        self._next_status = 0.0

    def run(self) -> None:
        """Work until told to stop or until learner_node is gone; leaves a checkpoint."""
        training = self.training
        while self.running:
            self._receive(wait_s=0.0 if training.updates_due else 0.05)
            training.work(_UPDATES_A_TURN)
            message = training.publish_if_due()
            if message:
                self._send(message)
            training.save_if_due()
            if training.clock() >= self._next_status:
                self._next_status = training.clock() + _STATUS_EVERY_S
                self._send(training.report())
        training.save_if_due(force=True)

    def _receive(self, wait_s: float) -> None:
        ready, _, _ = select.select([self.channel], [], [], wait_s)
        if not ready:
            return
        data = self.channel.recv(1 << 20)
        if not data:
            self.running = False  # learner_node is gone; it restarts us with its history
            return
        for header, payload in self.reader.push(data):
            if header['kind'] == 'events':
                self.training.add(unpack_events(header, payload))
            elif header['kind'] == 'stop':
                self.running = False

    def _send(self, header: dict[str, Any]) -> None:
        try:
            self.channel.sendall(pack(header))
        except OSError:
            self.running = False


def main() -> int:
    """Run the trainer; exit status 2 and one line for an error that the user can mend."""
    arguments = parser().parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # learner_node says when to stop
    os.nice(arguments.nice)
    channel = socket.socket(fileno=arguments.fd)
    try:
        trainer = Trainer(channel, prepare(arguments))
    except QcfqlError as error:
        channel.sendall(pack({'kind': 'error', 'text': str(error)}))  # learner_node says it
        return 2
    signal.signal(signal.SIGTERM, lambda *_: setattr(trainer, 'running', False))
    trainer.run()
    return 0


if __name__ == '__main__':
    sys.exit(main())
