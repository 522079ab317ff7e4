# SPDX-License-Identifier: Apache-2.0
"""Made-up practice for tests of training."""

from __future__ import annotations

import numpy as np

from qcfql_ros.data.steps import SegmentEnd, Step


def random_events(
    episodes: int, length: int, state_dim: int, action_dim: int, seed: int = 0
) -> list[Step | SegmentEnd]:
    """Return episodes that end in a termination, with random numbers."""
    random = np.random.default_rng(seed)
    events: list[Step | SegmentEnd] = []
    for episode in range(episodes):
        for index in range(length):
            events.append(
                Step(
                    stamp_ns=1000 * episode + index,
                    observation=random.normal(size=state_dim).astype(np.float32),
                    action=random.uniform(-1, 1, size=action_dim).astype(np.float32),
                    reward=-1.0,
                    terminated=index == length - 1,
                    chunk=index // 4,
                    index=index % 4,
                    episode=episode,
                    planned=random.uniform(-1, 1, (4, action_dim)).astype(np.float32),
                )
            )
        final = random.normal(size=state_dim).astype(np.float32)
        events.append(SegmentEnd(final, False, 'terminated', True))
    return events
