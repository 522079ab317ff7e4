# SPDX-License-Identifier: Apache-2.0
"""What policy files and training states say about themselves, read without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qcfql_ros.contract.schema import Contract
from qcfql_ros.errors import CheckpointError, ModelError

_LIMIT = 1 << 24


def read_state_header(path: str | Path) -> dict[str, Any]:
    """Return the JSON that a training state carries.

    Raises:
        CheckpointError: missing, or not a training state.
    """
    try:
        return _read(path, 'qcfql_state')
    except OSError as error:
        raise CheckpointError(f'{path}: no such training state ({error.strerror})') from None
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(
            f'{path}: not a training state of qcfql_ros; learning goes on from one '
            '(state.safetensors of a model, last.safetensors of a training)'
        ) from None


def read_policy_header(path: str | Path) -> dict[str, Any]:
    """Return the JSON that a policy file carries.

    Raises:
        ModelError: missing, or not a policy file.
    """
    try:
        return _read(path, 'qcfql')
    except OSError as error:
        raise ModelError(f'{path}: no such policy file ({error.strerror})') from None
    except (ValueError, KeyError, TypeError):
        raise ModelError(f'{path}: not a policy file of qcfql_ros') from None


def check_contract_of(path: str | Path, found: dict[str, Any], contract: Contract) -> None:
    """Refuse a policy or state made for another contract.

    Raises:
        ModelError: names both contracts.
    """
    if found.get('contract_hash') != contract.hash:
        raise ModelError(
            f'{path}: made for contract {found.get("contract_name")!r} '
            f'{str(found.get("contract_hash"))[:12]}, but this run uses {contract.name!r} '
            f'{contract.hash[:12]}; give the model of this contract, or train one'
        )


def _read(path: str | Path, key: str) -> dict[str, Any]:
    with open(path, 'rb') as file:
        length = int.from_bytes(file.read(8), 'little')
        header = json.loads(file.read(length)) if 2 <= length <= _LIMIT else {}
    found = json.loads(header['__metadata__'][key])
    if not isinstance(found, dict):
        raise TypeError(f'{key} is no object')
    return found
