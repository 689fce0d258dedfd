"""Files behind fsspec that are there as a whole or not at all, and in a local folder stay after a power cut."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from threading import Lock
from uuid import uuid4

import fsspec

from unsee_core.errors import StoreUnavailableError


@dataclass(frozen=True)
class FoundFile:
    """A file's name without its folder, and the seconds since it was written; 0 where nothing says."""

    name: str
    age_s: float


class DurableFiles:
    """Folders of files under one root; paths are relative to it, and safe: the caller checks what it puts into them.

    Args:
        url: a path, ``file://``, ``memory://`` or another of fsspec's.
        folders: made if they are not there.

    Raises:
        StoreUnavailableError: they cannot be made; as every method, when files cannot be reached.
    """

    def __init__(self, url: str, *folders: str) -> None:
        with _ours():
            # No cache of listings: other processes write too.
            self._files, self._root = fsspec.url_to_fs(url, use_listings_cache=False)
            for folder in folders:
                self._files.makedirs(f"{self._root}/{folder}", exist_ok=True)
            self._is_local = "file" in self._files.protocol
            if self._is_local:
                _sync_folder(Path(self._root))
        self._lock = Lock()

    @contextmanager
    def one_writer(self) -> Iterator[None]:
        """Hold off other writers: the threads of this process, and in a local folder other processes too."""
        with self._lock:
            if not self._is_local:
                yield
                return
            with _ours():
                lock = os.open(f"{self._root}/lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                with _ours():
                    fcntl.flock(lock, fcntl.LOCK_EX)  # goes with the process, however it ends
                yield
            finally:
                os.close(lock)

    def found(self, folder: str) -> list[FoundFile]:
        """Return the files of a folder."""
        with suppress(FileNotFoundError), _ours(FileNotFoundError):  # object stores have no empty folders
            infos = self._files.ls(f"{self._root}/{folder}", detail=True)
            return [FoundFile(str(info["name"]).rsplit("/", 1)[-1], _age_s(info)) for info in infos]
        return []

    def read(self, path: str) -> bytes | None:
        """Return a file's bytes; None if there is none."""
        with suppress(FileNotFoundError), _ours(FileNotFoundError):
            return bytes(self._files.cat_file(f"{self._root}/{path}"))
        return None

    def write(self, path: str, data: bytes, *, exclusive: bool = False) -> None:
        """Write a file.

        Raises:
            FileExistsError: ``exclusive``, and there is one.
        """
        whole = f"{self._root}/{path}"
        with _ours(FileExistsError):
            if self._is_local:
                _write_durably(Path(whole), data, exclusive=exclusive)
                return
            self._files.pipe_file(whole, data, mode="create" if exclusive else "overwrite")

    def remove(self, path: str) -> None:
        """Remove a file, if there is one."""
        whole = f"{self._root}/{path}"
        with suppress(FileNotFoundError), _ours(FileNotFoundError):
            self._files.rm_file(whole)
            if self._is_local:
                _sync_folder(Path(whole).parent)


def _write_durably(path: Path, data: bytes, *, exclusive: bool) -> None:
    if exclusive and path.exists():  # nobody can make it meanwhile: there is one writer
        raise FileExistsError(path)
    draft = path.with_name(f".{uuid4().hex}.draft")
    try:
        with draft.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def _ours(*passed: type[OSError]) -> Iterator[None]:
    """Turn what a file system raises into our error, but for the types that the caller handles itself."""
    try:
        yield
    except passed:
        raise
    except (OSError, ImportError, ValueError) as error:
        raise StoreUnavailableError(f"the store cannot be reached: {error}") from error


def _age_s(info: dict[str, object]) -> float:
    when = info.get("mtime") or info.get("LastModified") or info.get("created")
    if isinstance(when, datetime):
        return time.time() - when.timestamp()
    return time.time() - when if isinstance(when, int | float) else 0.0
