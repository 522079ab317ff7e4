# SPDX-License-Identifier: Apache-2.0
"""Robots that learn on ROS 2 with QC-FQL: from demonstrations, then from their own practice.

``from qcfql_ros import QCFQLPolicy, QCFQLConfig`` is the algorithm for one's own training loop;
torch is loaded only when one of these names is asked for.
"""

from __future__ import annotations

from typing import Any

__version__ = '0.1.0'

_PUBLIC = {
    'QCFQLConfig': 'qcfql_policy',
    'QCFQLPolicy': 'qcfql_policy',
    'FlowMatchingBehaviorPolicy': 'networks',
    'ChunkedCritic': 'networks',
    'NoiseConditionedPolicy': 'networks',
}
__all__ = ['__version__', *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    import importlib

    return getattr(importlib.import_module(f'{__name__}.algorithm.{_PUBLIC[name]}'), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
