# SPDX-License-Identifier: Apache-2.0
"""The complete examples of docs/contract.md, so that they cannot rot, and ways to change them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from qcfql_ros.contract import Contract, load_contract

_PAGE = Path(__file__).resolve().parent.parent / 'docs' / 'contract.md'
_YAML = re.compile(r'^```yaml\n(contract: 1\n.*?)^```$', re.MULTILINE | re.DOTALL)
EXAMPLES = {
    yaml.safe_load(text)['name']: text for text in _YAML.findall(_PAGE.read_text(encoding='utf-8'))
}


def example(folder: Path, name: str, change: Any = None) -> Contract:
    """Load the example `name` from `folder`, after ``change(data)`` has edited its mapping."""
    path = folder / f'{name}.yaml'
    if change is None:
        path.write_text(EXAMPLES[name])
    else:
        data = yaml.safe_load(EXAMPLES[name])
        change(data)
        path.write_text(yaml.safe_dump(data))
    return load_contract(path)
