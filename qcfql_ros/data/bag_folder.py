# SPDX-License-Identifier: Apache-2.0
"""Which files make a recording, and in which order."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from qcfql_ros.data.bag_metadata import ACTIVE, METADATA, BagMetadata, read_metadata
from qcfql_ros.errors import BagError

_NAME = re.compile(r'(?:_(\d+))?\.(mcap|db3)(\.zstd)?(\.active)?$')


def split_number(path: Path) -> int:
    """Return N of ``name_N.mcap``, also ``.db3``, compressed or active; 0 without a number."""
    found = _NAME.search(path.name)
    return int(found.group(1) or 0) if found else 0


def is_split(path: Path, include_open: bool = False) -> bool:
    """Say whether a file's name is one of a bag's files."""
    found = _NAME.search(path.name)
    if found is None or path.name.startswith('.'):
        return False
    return path.is_file() and (include_open or found.group(4) is None)


def split_paths(
    folder: Path, *, include_open: bool = False, metadata: BagMetadata | None = None
) -> list[Path]:
    """Return the bag's files in order, the one that a killed recorder left unlisted included.

    Args:
        folder: a rosbag2 folder, or one of its files.
        include_open: also the file that is being written, whose name ends in ``.active``.
        metadata: of the folder; it is read when None.

    Raises:
        BagError: no such folder, neither metadata.yaml nor a file in it, or one is missing.
    """
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise BagError(f'no recording at {folder}; want a rosbag2 folder or one of its files')
    metadata = metadata or read_metadata(folder)
    listed = [_listed(folder, entry.name) for entry in metadata.files] if metadata else []
    last = max((split_number(path) for path in listed), default=-1)
    others = [
        path
        for path in folder.iterdir()
        if is_split(path, include_open) and split_number(path) > last
    ]
    names = {path.name for path in others}
    # Compressed and not yet removed, or closed and not yet renamed: one of the two.
    others = [
        path
        for path in others
        if path.name.removesuffix('.zstd').removesuffix(ACTIVE) not in names - {path.name}
    ]
    paths = listed + sorted(others, key=lambda path: (split_number(path), path.name))
    if not paths and metadata is None:
        for path in folder.iterdir():
            if is_split(path, include_open=True):
                raise BagError(
                    f'{folder} holds nothing but {path.name}, which a recorder is writing, or '
                    'left when it was killed: the next start on this folder recovers it'
                )
        raise BagError(
            f'{folder} holds no .mcap or .db3 file; want a rosbag2 folder or one of its files'
        )
    return paths


def _listed(folder: Path, name: str) -> Path:
    """Return the file of that name, also if it was compressed or decompressed since."""
    other = name.removesuffix('.zstd') if name.endswith('.zstd') else f'{name}.zstd'
    for path in (folder / name, folder / other):
        if path.is_file():
            return path
    raise BagError(f'{folder / name} is missing; {folder}/{METADATA} lists it')


def beside(bag: str | Path, suffix: str) -> Path:
    """Return the path beside a bag whose name is the bag's and `suffix`."""
    path = Path(bag).absolute()
    if path.name in ('', '..'):
        path = path.resolve()
    return path.with_name(path.name + suffix)


def find_bags(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """Return the recordings that are meant: each path is one, or a folder of some.

    Raises:
        BagError: there is none.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    found: list[Path] = []
    for path in map(Path, given):
        inner = [] if _is_bag(path) or not path.is_dir() else sorted(_below(path))
        found += inner or [path]
    return found


def _below(folder: Path) -> list[Path]:
    bags: list[Path] = []
    for path in folder.iterdir():
        if path.is_dir() and not path.name.startswith('.'):
            bags += [path] if _is_bag(path) else _below(path)
    return bags


def _is_bag(path: Path) -> bool:
    return path.is_dir() and (
        (path / METADATA).is_file() or any(is_split(one, True) for one in path.iterdir())
    )
