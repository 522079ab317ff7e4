# SPDX-License-Identifier: Apache-2.0
"""How much memory a process may take: what a limit says, and what is in use."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

_UNITS = {'': 1 << 20, 'k': 1 << 10, 'm': 1 << 20, 'g': 1 << 30}
_SIZE = re.compile(r'(\d+(?:\.\d+)?)\s*([kmg]?)(?:i?b)?', re.IGNORECASE)


def size_in_bytes(text: str) -> int:
    """Return the bytes of ``800``, ``800M`` (both MiB) or ``1.5G``; an argument's type."""
    found = _SIZE.fullmatch(text.strip())
    size = float(found.group(1)) * _UNITS[found.group(2).lower()] if found else 0.0
    if size < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is no size; want one as 800M or 2G')
    return int(size)


def resident_bytes() -> tuple[int, int]:
    """Return what this process has in memory now, and the most it ever had."""
    status = Path('/proc/self/status').read_text()
    now, peak = (
        int(re.findall(rf'^{name}:\s+(\d+) kB', status, re.MULTILINE)[0]) << 10
        for name in ('VmRSS', 'VmHWM')
    )
    return now, peak
