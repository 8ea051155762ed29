"""Files that are whole or absent: atomic writes, arrays as bytes, hashes, locked directories."""

from __future__ import annotations

import hashlib
import io
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from .errors import ResumeError, StoreError

Array = npt.NDArray[Any]


def sha256(data: bytes) -> str:
    """Return the SHA-256 of the bytes in hex."""
    return hashlib.sha256(data).hexdigest()


def write_file(path: pathlib.Path, data: bytes) -> None:
    """Replace the file in one step; a reader sees the old content or the new, never a part.

    Raises:
      StoreError: it cannot be written (full disk, permissions); the old content stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StoreError(
            f"{path} could not be written ({error.strerror}); what was there before is unharmed. "
            "Free some space or check the permissions, and run the same command again."
        ) from error


def append_line(path: pathlib.Path, line: str) -> None:
    """Append a line of text; StoreError where it cannot be written."""
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        raise StoreError(
            f"{path} could not be written ({error.strerror}). Free some space and run the same command "
            "again: it goes on from the last checkpoint."
        ) from error


def write_directory(path: pathlib.Path, fill: Callable[[pathlib.Path], None]) -> None:
    """Make or replace a directory in one step: `fill` writes into a temporary one, which then gets the name.

    Raises:
      StoreError: it cannot be written; nothing of it remains, and what had the name before has it still.
    """
    temporary, aside = path.with_name(f".{path.name}.{os.getpid()}.tmp"), path.with_name(f".{path.name}.old")
    try:
        restore_directories(path.parent)
        temporary.mkdir(parents=True)
        fill(temporary)
        for name in sorted(temporary.iterdir()):
            with open(name, "rb") as file:
                os.fsync(file.fileno())
        if path.exists():
            os.replace(path, aside)
        os.replace(temporary, path)
        _sync_directory(path.parent)
    except OSError as error:
        restore_directories(path.parent)
        raise StoreError(
            f"{path} could not be written ({error.strerror}); earlier ones are unharmed. "
            "Free some space or check the permissions, and run the same command again."
        ) from error
    shutil.rmtree(aside, ignore_errors=True)


def restore_directories(parent: pathlib.Path) -> None:
    """Clear what interrupted `write_directory` calls left in this folder; every name keeps whole content."""
    for aside in parent.glob(".*.old"):
        path = parent / aside.name[1:].removesuffix(".old")
        if path.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.rename(path)
    for temporary in parent.glob(".*.tmp"):
        shutil.rmtree(temporary, ignore_errors=True)


def _sync_directory(path: pathlib.Path) -> None:
    if os.name != "posix":
        return  # other systems cannot open a directory to sync it
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def pack(arrays: dict[str, Array]) -> bytes:
    """Return arrays as the bytes of an .npz file without pickle."""
    buffer = io.BytesIO()
    plain = {k: v.view(np.dtype(v.dtype.descr)) if v.dtype.names else v for k, v in arrays.items()}
    np.savez(buffer, allow_pickle=False, **plain)
    return buffer.getvalue()


def unpack(data: bytes) -> dict[str, Array]:
    """Read `pack`'s bytes."""
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


class DirectoryLock:
    """An exclusive lock on a directory, released when the process ends however it ends.

    Raises:
      ResumeError: another process holds it.
    """

    def __init__(self, directory: pathlib.Path) -> None:
        path = directory / "lock"
        try:
            self._file: IO[Any] = open(path, "a+")  # noqa: SIM115 - held for the run
        except OSError as error:
            raise StoreError(
                f"{path} cannot be written ({error.strerror}); check the permissions, or give another --run."
            ) from error
        try:
            _lock(self._file)
        except OSError as error:
            self._file.seek(0)
            holder = self._file.read().strip() or "another process"
            self._file.close()
            raise ResumeError(
                f"{directory} is in use by {holder}; wait for it, stop it, or give another --run."
            ) from error
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()}")
        self._file.flush()

    def release(self) -> None:
        """Let go of the directory."""
        self._file.close()


def _lock(file: IO[Any]) -> None:
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
