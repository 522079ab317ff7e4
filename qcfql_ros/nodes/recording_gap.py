# SPDX-License-Identifier: Apache-2.0
"""What a kill of the learner cost, in seconds."""

from __future__ import annotations

from typing import Any

from qcfql_ros.data.recovery import Recovery


class RecordingGap:
    """Measures what is not in the bag between a session that was killed and this one.

    Args:
        last_ns: receive stamp of the last message in the bag; 0 when there is none.
        recovery: what was found of a session that was killed, None after a clean end.
        started_ns: when this session began.
        flush_s: a power cut loses as much before it, a kill less.
    """

    def __init__(
        self, last_ns: int, recovery: Recovery | None, started_ns: int, flush_s: float = 1.0
    ) -> None:
        self._last_ns, self._started_ns, self._flush_s = last_ns, started_ns, flush_s
        self._killed = recovery is not None and bool(recovery.files)
        self._late_s = recovery.late_s if recovery is not None else 0.0
        self.heard_s = self.gap_s = 0.0

    def heard(self, now_ns: int) -> bool:
        """Note that every topic is heard again; True when that ends a gap to be spoken of."""
        if self.heard_s:
            return False
        self.heard_s = max(1e-9, (now_ns - self._started_ns) / 1e9)
        if self._killed and self._last_ns:
            self.gap_s = (now_ns - self._last_ns) / 1e9 + self._late_s
        return bool(self.gap_s)

    def values(self) -> dict[str, Any]:
        """Return what the diagnostics say of it."""
        return {'heard_after_s': round(self.heard_s, 3), 'gap_s': round(self.gap_s, 3)}

    def __str__(self) -> str:
        return (
            f'the recording has a gap of at most {self.gap_s:.2f} s, from the last message of the '
            f'session that was killed until every topic was heard again, {self.heard_s:.2f} s '
            f'after this start; of what came before the kill, at most the last '
            f'{self._flush_s:g} s are lost'
        )
