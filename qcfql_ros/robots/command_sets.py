# SPDX-License-Identifier: Apache-2.0
"""Command messages put together by stamp: a row is there when every command topic has it."""

from __future__ import annotations

from typing import Any

import numpy as np

from qcfql_ros.contract.decode import stamp_of
from qcfql_ros.contract.decode_commands import decode_commands
from qcfql_ros.contract.schema import Contract

_MOST_OPEN = 64


class CommandSets:
    """Action rows waiting to be executed.

    Attributes:
        superseded: complete rows that a newer one replaced before they were executed.
        late: messages stamped before what was executed or dropped already.
    """

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._topics = {command.topic for command in contract.action.commands}
        self._open: dict[int, dict[str, Any]] = {}
        self._rows: dict[int, np.ndarray] = {}
        self._after_ns = 0
        self.superseded = 0
        self.late = 0

    def push(self, topic: str, message: Any) -> None:
        """Take in a message of a command topic.

        Raises:
            MessageError: the row that it completes does not fit the contract; it is dropped.
        """
        stamp_ns = stamp_of(message)
        if stamp_ns <= self._after_ns:
            self.late += 1
            return
        messages = self._open.setdefault(stamp_ns, {})
        messages[topic] = message
        if len(messages) == len(self._topics):
            del self._open[stamp_ns]
            self._rows[stamp_ns] = decode_commands(self._contract, messages)
        elif len(self._open) > _MOST_OPEN:  # stamps that never match must not pile up
            del self._open[min(self._open)]

    def take(self, stamp_ns: int) -> np.ndarray | None:
        """Return the row of exactly this stamp and forget all up to it; None if not complete."""
        row = self._rows.get(stamp_ns)
        if row is not None:
            self.drop_until(stamp_ns)
        return row

    def take_newest(self) -> tuple[int, np.ndarray] | None:
        """Return stamp and row of the newest complete set; older ones are superseded."""
        if not self._rows:
            return None
        stamp_ns = max(self._rows)
        row = self._rows[stamp_ns]
        self.superseded += len(self._rows) - 1
        self.drop_until(stamp_ns)
        return stamp_ns, row

    def drop_until(self, stamp_ns: int) -> None:
        """Forget everything stamped `stamp_ns` or earlier, and refuse it from now on."""
        self._after_ns = max(self._after_ns, stamp_ns)
        self._open = {s: m for s, m in self._open.items() if s > stamp_ns}
        self._rows = {s: r for s, r in self._rows.items() if s > stamp_ns}

    def missing(self, stamp_ns: int) -> list[str]:
        """Return the topics that have no message of this stamp yet."""
        return sorted(self._topics - set(self._open.get(stamp_ns, ())))
