# SPDX-License-Identifier: Apache-2.0
"""The policy node as it is, but for plans that are late at random.

    python benchmarks/soak_policy.py SEED SHARE SECONDS --ros-args ...

SHARE of the plans of the inference thread take up to SECONDS longer. The node ends itself only
after a pause of its control thread that no busy machine explains; each one is counted as missed
ticks.
"""

from __future__ import annotations

import random
import sys
import threading
import time

from qcfql_ros.algorithm.policy import ChunkPolicy
from qcfql_ros.control import supervision
from qcfql_ros.nodes.policy_node import PolicyNode
from qcfql_ros.nodes.process import run_node

LONGEST_PAUSE_NS = 3_000_000_000


def delay_plans(seed: int, share: float, longest_s: float) -> None:
    """Have plans for the robot wait; those that check new weights do not."""
    draw = random.Random(seed)
    plan = ChunkPolicy.plan

    def late(self, *arguments, **options):
        if threading.current_thread().name == 'inference' and draw.random() < share:
            time.sleep(draw.uniform(0.0, longest_s))
        return plan(self, *arguments, **options)

    ChunkPolicy.plan = late


if __name__ == '__main__':
    supervision.LONGEST_PAUSE_NS = LONGEST_PAUSE_NS
    delay_plans(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
    sys.exit(run_node(PolicyNode, [sys.argv[0], *sys.argv[4:]]))
