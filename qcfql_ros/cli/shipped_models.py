# SPDX-License-Identifier: Apache-2.0
"""Find a policy file, or one that the package ships, by name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qcfql_ros.errors import ModelError, nearest

POLICY = 'policy.safetensors'
STATE = 'state.safetensors'


@dataclass(frozen=True)
class ModelFiles:
    """A policy and, if it is there, the training state to go on from.

    A shipped model is a folder: ``policy.safetensors``, ``state.safetensors`` and its card.
    """

    policy: Path
    state: Path | None


def find_model(path_or_name: str | Path) -> ModelFiles:
    """Return the files of a model given as a policy file, a folder, or a shipped model's name.

    Raises:
        ModelError: there is none; names the nearest.
    """
    path = Path(path_or_name).expanduser()
    if path.is_file():
        return _files(path)
    if (path / POLICY).is_file():
        return _files(path / POLICY)
    text = str(path_or_name)
    known: dict[str, Path] = {}
    for folder in model_folders():
        for policy in sorted(folder.glob(f'*/{POLICY}')):
            known.setdefault(policy.parent.name, policy)
    name = text.removeprefix('models/').rstrip('/')
    if name in known:
        return _files(known[name])
    raise ModelError(
        f'model {text!r}: no such file, and no shipped model of that name; '
        f'shipped are: {", ".join(sorted(known)) or "none"}{nearest(name, known)}'
    )


def model_folders() -> Iterator[Path]:
    """Yield where models lie: source checkout, ament share folder, Python's data folder."""
    root = Path(__file__).resolve().parents[2]
    if (root / 'setup.py').is_file():
        yield root / 'models'
    try:
        from ament_index_python.packages import get_package_share_directory

        yield Path(get_package_share_directory('qcfql_ros')) / 'models'
    except (ImportError, LookupError, OSError):
        pass  # no ROS, or not installed in it
    yield Path(sys.prefix) / 'share' / 'qcfql_ros' / 'models'
    if len(root.parents) > 2:
        yield root.parents[2] / 'share' / 'qcfql_ros' / 'models'


def _files(policy: Path) -> ModelFiles:
    state = policy.parent / STATE
    return ModelFiles(policy, state if policy.name == POLICY and state.is_file() else None)
