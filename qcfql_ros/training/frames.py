# SPDX-License-Identifier: Apache-2.0
"""Frames between learner_node and its trainer process, over a local socket pair.

A frame is two little-endian uint32, the sizes of a JSON header and of a payload, then both.
Steps travel as one header with their small fields and one payload of float32.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from qcfql_ros.data.steps import SegmentEnd, Source, Step
from qcfql_ros.errors import QcfqlError

_SIZES = struct.Struct('<II')
_LIMIT = 1 << 28

Event = Step | SegmentEnd


def pack(header: dict[str, Any], payload: bytes = b'') -> bytes:
    """Return one frame."""
    text = json.dumps(header, separators=(',', ':')).encode()
    return _SIZES.pack(len(text), len(payload)) + text + payload


class FrameReader:
    """Cuts a byte stream into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def push(self, data: bytes) -> list[tuple[dict[str, Any], bytes]]:
        """Add received bytes and return the frames that are now complete."""
        self._buffer += data
        frames = []
        while len(self._buffer) >= _SIZES.size:
            text_size, payload_size = _SIZES.unpack_from(self._buffer)
            if text_size > _LIMIT or payload_size > _LIMIT:
                raise QcfqlError(f'trainer link: a frame of {text_size} + {payload_size} bytes')
            end = _SIZES.size + text_size + payload_size
            if len(self._buffer) < end:
                break
            text = self._buffer[_SIZES.size : _SIZES.size + text_size]
            payload = bytes(self._buffer[_SIZES.size + text_size : end])
            frames.append((json.loads(text), payload))
            del self._buffer[:end]
        return frames


def pack_events(events: Sequence[Event]) -> bytes:
    """Return one frame with steps and segment ends."""
    items: list[list[Any]] = []
    arrays: list[np.ndarray] = []
    for event in events:
        if isinstance(event, Step):
            planned = 0 if event.planned is None else len(event.planned)
            items.append(
                [
                    event.stamp_ns,
                    float(event.reward),
                    int(event.terminated),
                    int(event.success),
                    int(event.source),
                    event.chunk,
                    event.index,
                    event.episode,
                    len(event.observation),
                    len(event.action),
                    planned,
                ]
            )
            arrays += [event.observation, event.action]
            if event.planned is not None:
                arrays.append(event.planned.reshape(-1))
        else:
            size = len(event.final_observation)
            items.append([int(event.truncated), event.reason, int(event.episode_end), size])
            arrays.append(event.final_observation)
    numbers = np.concatenate(arrays).astype('<f4') if arrays else np.zeros(0, '<f4')
    return pack({'kind': 'events', 'items': items}, numbers.tobytes())


def unpack_events(header: dict[str, Any], payload: bytes) -> list[Event]:
    """Return what `pack_events` packed."""
    numbers = np.frombuffer(payload, '<f4')
    position = 0

    def take(count: int) -> np.ndarray:
        nonlocal position
        position += count
        return numbers[position - count : position]

    events: list[Event] = []
    for item in header['items']:
        if len(item) == 4:
            truncated, reason, episode_end, size = item
            events.append(SegmentEnd(take(size), bool(truncated), reason, bool(episode_end)))
            continue
        stamp, reward, terminated, success, source, chunk, index, episode = item[:8]
        state_dim, action_dim, planned = item[8:]
        events.append(
            Step(
                stamp_ns=stamp,
                observation=take(state_dim),
                action=take(action_dim),
                reward=reward,
                terminated=bool(terminated),
                success=bool(success),
                source=Source(source),
                chunk=chunk,
                index=index,
                episode=episode,
                planned=take(planned * action_dim).reshape(-1, action_dim) if planned else None,
            )
        )
    return events
