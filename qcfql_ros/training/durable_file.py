# SPDX-License-Identifier: Apache-2.0
"""Files that are replaced whole, and are on the disk when the call returns."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from qcfql_ros.data.bag_metadata import sync_folder


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file beside `path`, then put it in the place of `path`.

    File and folder are synced, so that after a loss of power there is the old file or the new
    one. If `write` raises, the old one stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        write(temporary)
        sync_file(temporary)
        temporary.chmod(0o644)
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_policy(blob: bytes, name: str, folder: Path) -> Path:
    """Write ``<name>.safetensors`` into `folder` and return its path."""
    path = folder / f'{name}.safetensors'
    replace_file(path, lambda temporary: temporary.write_bytes(blob))
    return path


def sync_file(path: Path) -> None:
    """Wait until what was written to `path` is on the disk."""
    with open(path, 'rb') as file:
        os.fsync(file.fileno())
