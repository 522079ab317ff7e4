# SPDX-License-Identifier: Apache-2.0
"""Where decoded steps are put while they are made: beside the bag, else wherever there is room."""

from __future__ import annotations

import contextlib
import fcntl
import io
import mmap
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from qcfql_ros.data.step_block import StepBlock
from qcfql_ros.data.step_file import StepFile, StepFileWriter
from qcfql_ros.errors import BagError

SPARE_BYTES = 1 << 28  # left free on the disk, for a recorder may need it
_PART = '.part'
# What tells backup programs that this can be made again (bford.info/cachedir).
_TAG, _SIGNATURE = 'CACHEDIR.TAG', 'Signature: 8a477f597d28d172789f06886806bc55\n'


class StepSink:
    """Takes blocks, and gives them back as a `StepFile`.

    Args:
        path: of the file to make; None for a temporary one.
        movable: when the file cannot be written, go on in the temporary folder, and when that is
            not possible either, in memory. Else the steps are not kept.

    Attributes:
        trouble: why there is no file at `path`; empty while there may be one.
    """

    def __init__(self, path: Path | None, movable: bool = True) -> None:
        self._path = path
        self._part: Path | None = None
        self._size = 0
        self.trouble = ''
        self._next: list[Callable[[], BinaryIO]] = [self._beside] if path is not None else []
        if movable:
            self._next += [_temporary, io.BytesIO]
        self._stream: BinaryIO | None = None
        self._open_next()
        self._writer = StepFileWriter(self._write)

    def add(self, block: StepBlock) -> None:
        """Put one block behind the others."""
        self._writer.add(block)

    @property
    def keeps(self) -> bool:
        """Whether what is added is written anywhere."""
        return self._stream is not None

    def finish(self, about: dict[str, Any], keep: bool = True) -> StepFile | None:
        """Complete the file and return it; None when nothing could be written.

        Args:
            about: see `StepFileWriter.finish`.
            keep: False leaves nothing at `path`.

        The file needs no sync: what a power cut spoils is found by its checksums and made again.

        Raises:
            BagError: what was written does not come back.
        """
        self._writer.finish(about)
        if self._stream is None:
            return None
        if keep and self._part is not None and self._path is not None:
            try:
                os.replace(self._part, self._path)
                self._part = None
            except OSError as error:
                self.trouble = _reason(error)
        try:
            return StepFile(_mapped(self._stream))
        except ValueError as error:
            raise BagError(
                f'steps written to {self._path or tempfile.gettempdir()} do not come back: '
                f'{error}; the disk is not to be trusted'
            ) from error
        finally:
            self.close()

    def close(self) -> None:
        """Let go, and remove what was not completed. Safe to call twice."""
        if self._part is not None:
            with contextlib.suppress(OSError):
                self._part.unlink()
            self._part = None
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        while left and self._stream is not None:
            try:
                if self._part is not None and _free(self._part.parent) < SPARE_BYTES:
                    raise OSError(0, f'less than {SPARE_BYTES >> 20} MiB are free')
                done = self._stream.write(left)
            except OSError as error:
                self._move(error)
            else:
                self._size += done
                left = left[done:]

    def _move(self, error: OSError) -> None:
        """Go on elsewhere, behind a copy of what is written so far."""
        self.trouble = self.trouble or _reason(error)
        before, part, self._part = self._stream, self._part, None
        assert before is not None
        self._stream = None
        while self._next and self._stream is None:
            self._open_next()
            if self._stream is not None:
                try:
                    before.seek(0)
                    while piece := before.read(1 << 20):
                        _write_all(self._stream, piece)
                except OSError:
                    self._stream.close()
                    self._stream = None
        before.close()
        if part is not None:
            with contextlib.suppress(OSError):
                part.unlink()

    def _open_next(self) -> None:
        while self._next and self._stream is None:
            try:
                self._stream = self._next.pop(0)()
            except OSError as error:
                self.trouble = self.trouble or _reason(error)

    def _beside(self) -> BinaryIO:
        assert self._path is not None
        folder = self._path.parent
        folder.mkdir(exist_ok=True)
        within = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # Or another process finds the new file before it is locked.
            fcntl.flock(within, fcntl.LOCK_EX)
            _remove_left_behind(folder)
            if not (folder / _TAG).exists():
                (folder / _TAG).write_text(_SIGNATURE)
            part = folder / f'.{self._path.name}.{uuid.uuid4().hex}{_PART}'
            handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(within)
        self._part = part
        return os.fdopen(handle, 'r+b', buffering=0)  # type: ignore[return-value]


def _temporary() -> BinaryIO:
    return tempfile.TemporaryFile(prefix='qcfql_steps_', buffering=0)  # type: ignore[return-value]


def _mapped(stream: BinaryIO) -> mmap.mmap | bytes:
    if isinstance(stream, io.BytesIO):
        return stream.getvalue()
    return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)


def _write_all(stream: BinaryIO, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[stream.write(left) :]


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _remove_left_behind(folder: Path) -> None:
    """Remove the unfinished files of processes that are gone; a living one holds its lock."""
    for path in folder.glob(f'.*{_PART}'):
        with contextlib.suppress(OSError), path.open('rb') as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
