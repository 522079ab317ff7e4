# SPDX-License-Identifier: Apache-2.0
"""Every exception this package raises on purpose.

::

    QcfqlError                      base; a verb, or a node at start, exits with status 2
    ├── ContractError               the contract file, or what is asked of it
    ├── ModelError                  a policy file, or a policy that does not fit the contract
    ├── CheckpointError             a training state that cannot be read or does not fit
    ├── BagError                    a recording that cannot be used
    ├── BufferBusyError             a second writer on one buffer
    ├── RobotError                  an unknown robot or environment, or one that does not answer
    ├── ParameterError              a setting out of range or of the wrong type
    ├── NotReadyError               driving cannot begin yet: what is missing
    ├── SupervisionError            a thread that drives died or hangs; exit status 1
    └── MessageError                one message that does not fit the contract; dropped and counted
        └── WeightError             one weight transfer that failed its checks; refused and counted

Messages say what is wrong, the value got, the value wanted, where, and what to change.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class QcfqlError(Exception):
    """Base of all errors that name what the user can change."""


class ContractError(QcfqlError):
    """The contract file is wrong, or something does not fit it."""


class ModelError(QcfqlError):
    """A policy file is missing, damaged, or made for another contract."""


class CheckpointError(QcfqlError):
    """A training state cannot be read, or does not fit this run."""


class BagError(QcfqlError):
    """A recording cannot be used."""


class BufferBusyError(QcfqlError):
    """Another process writes to this buffer."""


class RobotError(QcfqlError):
    """A robot or environment is unknown or does not answer."""


class ParameterError(QcfqlError):
    """A setting is out of range or of the wrong type."""


class NotReadyError(QcfqlError):
    """Something that driving needs is not there yet."""


class SupervisionError(QcfqlError):
    """A thread that drives died or hangs; starting again may mend it, a setting does not."""


class MessageError(QcfqlError):
    """One message does not fit the contract; it is dropped and counted."""


class WeightError(MessageError):
    """One weight transfer failed its checks; the old policy goes on."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return ``'; did you mean X?'`` for the valid name nearest to `name`, or ``''``."""
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f'; did you mean {close[0]!r}?' if close else ''
