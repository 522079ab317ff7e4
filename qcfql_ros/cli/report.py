# SPDX-License-Identifier: Apache-2.0
"""The report of a verb as JSON: one flat object, name to number or text, units in the names."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

Value = str | int | float | bool | None


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--json PATH``."""
    parser.add_argument(
        '--json', type=Path, metavar='PATH', help='write the report to this file too, as JSON'
    )


def write_report(path: Path | None, report: Mapping[str, Value]) -> None:
    """Write `report` to `path` whole or not at all; with no path, do nothing.

    Raises:
        TypeError: a value is not flat (text, number, bool or None).
    """
    if path is None:
        return
    for name, value in report.items():
        if not isinstance(value, Value):
            raise TypeError(f'report value {name!r} is a {type(value).__name__}; want it flat')
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.')
    try:
        with os.fdopen(handle, 'w', encoding='utf-8') as file:
            json.dump(dict(report), file, indent=2)
            file.write('\n')
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
