# SPDX-License-Identifier: Apache-2.0
"""What an inspection says of one recording."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from qcfql_ros.data.damage import Damage
from qcfql_ros.data.inspection_steps import StepReport
from qcfql_ros.data.inspection_topics import TopicReport
from qcfql_ros.data.labels import Labels


@dataclass(frozen=True, eq=False)
class BagReport:
    """What one recording is.

    Attributes:
        path: of it.
        files: how many it has.
        size: of them, in bytes.
        storage: ``mcap`` or ``sqlite3``.
        contract, contract_hash: it was recorded under; empty if it says none.
        start_ns, end_ns: first and last receive stamp, of the topics read.
        lockstep: the robot was paced by messages; times are header stamps.
        topics: those of the contract, in its order; all without a contract.
        unused: other topics and their types.
        damage: what was left out.
        labels: beside it, which say how its episodes end.
        steps: None where there are none to be made.
        counters: of the assembler: what was dropped, and why.
        unfit: why it cannot be learned from; empty if it can.
        warnings: what a person should look at.
    """

    path: Path
    files: int
    size: int
    storage: str
    contract: str
    contract_hash: str
    start_ns: int
    end_ns: int
    lockstep: bool
    topics: tuple[TopicReport, ...]
    unused: Mapping[str, str]
    damage: Damage
    labels: Labels | None = None
    steps: StepReport | None = None
    counters: Mapping[str, int] = field(default_factory=dict)
    unfit: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """How long it lasted."""
        return (self.end_ns - self.start_ns) / 1e9

    @property
    def messages(self) -> int:
        """All messages of its topics."""
        return sum(topic.messages for topic in self.topics)

    @property
    def fit(self) -> bool:
        """Whether it can be learned from."""
        return not self.unfit
