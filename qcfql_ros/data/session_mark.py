# SPDX-License-Identifier: Apache-2.0
"""The first message of every recording session: what a session leaves open, the next one ends.

A learner that was killed leaves steps half-complete. The next session begins with an empty
assembler; reading the bag again must do the same at the same place, so the place is in the bag.
"""

from __future__ import annotations

import json
import struct

from qcfql_ros.contract.topics import absolute

SESSION_TOPIC = 'learner/session'
SESSION_TYPE = 'std_msgs/msg/String'


def session_topic(namespace: str = '') -> str:
    """Return the absolute name of the topic."""
    return absolute(SESSION_TOPIC, namespace)


def session_mark(contract_name: str, contract_hash: str, started_ns: int) -> bytes:
    """Return a ``std_msgs/String`` in CDR with JSON that says who records, for people to read."""
    text = json.dumps(
        {'contract': contract_name, 'contract_hash': contract_hash, 'started_ns': started_ns},
        separators=(',', ':'),
    ).encode()
    return b'\x00\x01\x00\x00' + struct.pack('<I', len(text) + 1) + text + b'\x00'
