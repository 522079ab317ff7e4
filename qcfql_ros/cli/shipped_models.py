# SPDX-License-Identifier: Apache-2.0
"""Find a policy file, or one that the package ships, by name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qcfql_ros.errors import ModelError, nearest

POLICY = 'policy.safetensors'
# The training state that belongs to a policy file, by the names of shipped models and of train.
STATES = {
    POLICY: ('state.safetensors', 'last.safetensors'),
    'best_policy.safetensors': ('best.safetensors',),
}


@dataclass(frozen=True)
class ModelFiles:
    """A policy and, if it is there, the training state to go on from.

    A shipped model is a folder: ``policy.safetensors``, ``state.safetensors``, its card, and
    perhaps ``demonstrations``, a bag to mix into practice. What `qcfql train` leaves is found too.
    """

    policy: Path
    state: Path | None

    @property
    def demonstrations(self) -> Path | None:
        """The bag beside the policy, if there is one."""
        bag = self.policy.parent / 'demonstrations'
        return bag if (bag / 'metadata.yaml').is_file() else None

    def require_state(self) -> Path:
        """Return the state; raises ModelError if there is none to go on from."""
        if self.state is None:
            wanted = ' or '.join(STATES.get(self.policy.name, STATES[POLICY]))
            raise ModelError(
                f'model {self.policy}: no training state beside it to go on learning from; '
                f'wanted {wanted} in {self.policy.parent}'
            )
        return self.state


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
    states = (policy.parent / name for name in STATES.get(policy.name, ()))
    return ModelFiles(policy, next((state for state in states if state.is_file()), None))
