# SPDX-License-Identifier: Apache-2.0
"""A policy file as a row of messages, and back.

::

    part   | magic 4 | format 2 | session 8 | version 8 | index 4 | count 4 | size 8 | sha256 32 |
           | payload, at most 256 KiB with the header                                            |

Every part says all of this, so parts may come in any order, twice, or mixed with those of another
version. `session` is drawn once in each publishing process: versions must rise within one, and a
new one is a learner that was started again.
"""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import dataclass

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from qcfql_ros.errors import WeightError

PART_BYTES = 256 * 1024
MAX_BLOB_BYTES = 256 * 1024 * 1024
# A node that comes late gets the newest whole policy up to 16 MiB.
WEIGHTS_QOS = QoSProfile(
    depth=64,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)

_HEADER = struct.Struct('<4sHQQIIQ32s')
_MAGIC = b'QCFW'
_FORMAT = 1
_PAYLOAD = PART_BYTES - _HEADER.size
_MOST_OPEN = 2
_SESSION = int.from_bytes(os.urandom(8), 'little')


@dataclass(frozen=True)
class PartHeader:
    """What every part says about its transfer."""

    session: int
    version: int
    index: int
    count: int
    size: int
    sha256: bytes

    @property
    def transfer(self) -> tuple[int, int, bytes]:
        """The transfer it is a part of."""
        return self.session, self.version, self.sha256

    def payload_size(self) -> int:
        """Bytes that this part must carry."""
        return min(_PAYLOAD, self.size - self.index * _PAYLOAD)


@dataclass(frozen=True)
class ReceivedWeights:
    """A whole policy file, its SHA-256 checked."""

    session: int
    version: int
    blob: bytes


def split(blob: bytes, version: int, session: int = _SESSION) -> list[bytes]:
    """Return `blob` in parts of at most 256 KiB, each with its header.

    Raises:
        WeightError: empty, or above 256 MiB.
    """
    if not 0 < len(blob) <= MAX_BLOB_BYTES:
        raise WeightError(f'policy has {len(blob)} bytes, wanted 1 to {MAX_BLOB_BYTES}')
    count = -(-len(blob) // _PAYLOAD)
    digest = hashlib.sha256(blob).digest()
    return [
        _HEADER.pack(_MAGIC, _FORMAT, session, version, index, count, len(blob), digest)
        + blob[index * _PAYLOAD : (index + 1) * _PAYLOAD]
        for index in range(count)
    ]


def read_header(part: bytes) -> PartHeader:
    """Return the header of `part`.

    Raises:
        WeightError: not one of ours, or its numbers do not fit together.
    """
    if len(part) < _HEADER.size:
        raise WeightError(f'part has {len(part)} bytes, wanted at least {_HEADER.size}')
    magic, kind, *rest = _HEADER.unpack_from(part)
    if magic != _MAGIC or kind != _FORMAT:
        raise WeightError(f'part begins {magic!r} format {kind}, wanted {_MAGIC!r} {_FORMAT}')
    header = PartHeader(*rest)
    if not 0 < header.size <= MAX_BLOB_BYTES:
        raise WeightError(f'policy of {header.size} bytes, wanted 1 to {MAX_BLOB_BYTES}')
    if header.count != -(-header.size // _PAYLOAD) or header.index >= header.count:
        raise WeightError(
            f'part {header.index} of {header.count} does not fit a policy of {header.size} bytes'
        )
    if len(part) - _HEADER.size != header.payload_size():
        raise WeightError(
            f'part {header.index} carries {len(part) - _HEADER.size} bytes, '
            f'wanted {header.payload_size()}'
        )
    return header


class WeightReceiver:
    """Puts parts together; holds at most two unfinished transfers, the newest ones."""

    def __init__(self) -> None:
        self._open: dict[tuple[int, int, bytes], dict[int, bytes]] = {}
        self._done: tuple[int, int, bytes] | None = None

    def receive(self, part: bytes) -> ReceivedWeights | None:
        """Take a part; return the policy file that it completes.

        Raises:
            WeightError: the part is malformed, or the whole does not have its SHA-256; then the
                transfer is dropped.
        """
        header = read_header(part)
        if header.transfer == self._done:
            return None
        if header.transfer not in self._open and len(self._open) == _MOST_OPEN:
            del self._open[next(iter(self._open))]
        parts = self._open.setdefault(header.transfer, {})
        parts[header.index] = part[_HEADER.size :]
        if len(parts) < header.count:
            return None
        del self._open[header.transfer]
        blob = b''.join(parts[index] for index in range(header.count))
        digest = hashlib.sha256(blob).digest()
        if digest != header.sha256:
            raise WeightError(
                f'version {header.version}: SHA-256 is {digest.hex()[:12]}..., '
                f'wanted {header.sha256.hex()[:12]}...'
            )
        self._done = header.transfer
        return ReceivedWeights(header.session, header.version, blob)

    def push(self, part: bytes) -> bytes | None:
        """Take a part; return the bytes of the policy file that it completes."""
        received = self.receive(part)
        return None if received is None else received.blob
