# SPDX-License-Identifier: Apache-2.0
"""What a training state says about itself, read without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qcfql_ros.contract.schema import Contract
from qcfql_ros.errors import CheckpointError

_LIMIT = 1 << 24


def read_state_header(path: str | Path) -> dict[str, Any]:
    """Return the JSON that a training state carries.

    Raises:
        CheckpointError: missing, or not a training state.
    """
    try:
        with open(path, 'rb') as file:
            length = int.from_bytes(file.read(8), 'little')
            header = json.loads(file.read(length)) if 2 <= length <= _LIMIT else {}
        return json.loads(header['__metadata__']['qcfql_state'])
    except OSError as error:
        raise CheckpointError(f'{path}: no such training state ({error.strerror})') from None
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(
            f'{path}: not a training state of qcfql_ros; learning goes on from one '
            '(state.safetensors of a model, last.safetensors of a training)'
        ) from None


def check_state_contract(path: str | Path, found: dict[str, Any], contract: Contract) -> None:
    """Refuse a state that was made for another contract; raises CheckpointError."""
    if found.get('contract_hash') != contract.hash:
        raise CheckpointError(
            f'{path}: made for contract {found.get("contract_name")!r} '
            f'{str(found.get("contract_hash"))[:12]}, but this run uses {contract.name!r} '
            f'{contract.hash[:12]}; give the state of this contract, or train one'
        )
