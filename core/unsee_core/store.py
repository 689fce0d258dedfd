"""Durable adapters behind fsspec: an immutable content-addressed blob, then a manifest, written last.

    blobs/<sha256>.safetensors    the adapter's bytes
    manifests/<name>.json         what ``Manifest`` holds; an adapter exists as soon as this does

A writer killed between the two leaves a blob that nobody sees, and the next writer of the same bytes reuses it.
"""

import base64
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import fsspec

from unsee_core.errors import (
    AlreadyExistsError,
    CorruptedError,
    InvalidRequestError,
    NotFoundError,
    StoreUnavailableError,
)
from unsee_core.job import BaseModel, Concept, Drift, Manifest, Report

SCHEMA = 1
MAX_PAGE_SIZE, DEFAULT_PAGE_SIZE = 1000, 100
ORPHAN_AGE_S = 3600.0
T = TypeVar("T")


@dataclass(frozen=True)
class AdapterQuery:
    """Which adapters to list; conditions are combined with "and", empty ones admit all.

    Attributes:
        page_size: 0 stands for 100; above 1000 for 1000.
        page_token: ``next_page_token`` of the page before, asked with the same conditions.
        concept: name or synonym, compared without case.
        created_after: stored at or after.
        created_before: stored before.
    """

    page_size: int = DEFAULT_PAGE_SIZE
    page_token: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    concept: str = ""
    method: str = ""
    created_after: datetime | None = None
    created_before: datetime | None = None

    def __post_init__(self) -> None:
        if self.page_size < 0:
            raise InvalidRequestError.of("page_size", f"got {self.page_size}, allowed 0-{MAX_PAGE_SIZE}")
        _ = self.after

    def admits(self, manifest: Manifest) -> bool:
        """Return whether the manifest meets all conditions."""
        words = manifest.concept.words if manifest.concept else ()
        return (
            self.labels.items() <= manifest.labels.items()
            and (not self.concept or self.concept.casefold() in {word.casefold() for word in words})
            and (not self.method or self.method == manifest.method)
            and (self.created_after is None or manifest.create_time >= self.created_after)
            and (self.created_before is None or manifest.create_time < self.created_before)
        )

    @property
    def after(self) -> str:
        """Name that the page begins behind; "" for the first page."""
        if not self.page_token:
            return ""
        try:
            conditions, name = base64.urlsafe_b64decode(self.page_token.encode()).decode().split(":")
        except ValueError as error:
            raise InvalidRequestError.of("page_token", "got what no page ended with") from error
        if conditions != self._conditions():
            raise InvalidRequestError.of("page_token", "got one of a list with other conditions")
        return name

    def token_behind(self, name: str) -> str:
        """Return the token of the page that begins behind ``name``."""
        return base64.urlsafe_b64encode(f"{self._conditions()}:{name}".encode()).decode()

    def _conditions(self) -> str:
        facts = [sorted(self.labels.items()), self.concept, self.method, self.created_after, self.created_before]
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class AdapterPage:
    """Manifests by name, and the token of the next page; empty at the end."""

    manifests: tuple[Manifest, ...]
    next_page_token: str


class AdapterStore:
    """Adapters in a folder or in whatever else fsspec reaches; safe between the threads of one process.

    Args:
        url: a path, ``file://``, ``memory://`` or another of fsspec's; made if it is not there.

    Raises:
        StoreUnavailableError: it cannot be read or written.
    """

    def __init__(self, url: str) -> None:
        self._files, self._root = _reach(lambda: fsspec.url_to_fs(url))
        self._is_local = "file" in self._files.protocol
        self._lock = threading.Lock()
        for folder in ("blobs", "manifests"):
            _reach(partial(self._files.makedirs, f"{self._root}/{folder}", exist_ok=True))
        self._sweep()

    def put(self, name: str, data: bytes, manifest: Manifest, *, replace: bool) -> Manifest:
        """Store an adapter and return its manifest.

        Args:
            name: of the manifest; checked against the pattern of names by the caller.
            data: the blob.
            manifest: its digest is that of ``data``.
            replace: an adapter of this name gives way; else that is an error.

        Raises:
            AlreadyExistsError: the name is taken and ``replace`` is false.
            StoreUnavailableError: it cannot be written.
        """
        with self._lock:
            old = self._read_manifest(name)
            if old is not None and not replace:
                raise AlreadyExistsError(
                    f"adapter_name: {name!r} is taken by {old.digest}; set replace to overwrite it"
                )
            if not _reach(lambda: self._files.exists(self._blob(manifest.digest))):
                self._write(self._blob(manifest.digest), data, exclusive=False)
            text = json.dumps({"schema": SCHEMA, **asdict(manifest)}, default=_as_text, sort_keys=True, indent=1)
            self._write(self._manifest(name), text.encode(), exclusive=not replace)
            if old is not None and old.digest != manifest.digest:
                self._drop_blob_if_unused(old.digest)
        return manifest

    def get(self, ref: str) -> Manifest:
        """Return a manifest by name or digest; of names that share a digest, the first.

        Raises:
            NotFoundError: there is none.
        """
        found = self._by_digest(ref) if ref.startswith("sha256:") else self._read_manifest(ref)
        if found is None:
            raise NotFoundError(f"adapter: {ref!r} is not there")
        return found

    def read(self, digest: str) -> bytes:
        """Return an adapter's bytes.

        Raises:
            NotFoundError: no adapter has this digest.
            CorruptedError: the bytes differ from their digest.
        """
        try:
            data: bytes = self._files.cat_file(self._blob(digest))
        except FileNotFoundError as error:
            raise NotFoundError(f"adapter: {digest} is not there") from error
        except OSError as error:
            raise StoreUnavailableError(f"the store cannot be read: {error}") from error
        if hashlib.sha256(data).hexdigest() != digest.removeprefix("sha256:"):
            raise CorruptedError(f"adapter: the stored bytes of {digest} differ from it; delete and make it again")
        return data

    def delete(self, name: str) -> None:
        """Delete an adapter; its bytes go with the last name they have.

        Raises:
            NotFoundError: there is none of this name.
        """
        with self._lock:
            manifest = self._read_manifest(name)
            if manifest is None:
                raise NotFoundError(f"name: {name!r} is not there")
            _reach(lambda: self._files.rm_file(self._manifest(name)))
            self._drop_blob_if_unused(manifest.digest)

    def list(self, query: AdapterQuery) -> AdapterPage:
        """Return a page of the manifests that the query admits, by name."""
        size = min(query.page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
        found: list[Manifest] = []
        for manifest in self._manifests(behind=query.after):
            if not query.admits(manifest):
                continue
            if len(found) == size:
                return AdapterPage(tuple(found), query.token_behind(found[-1].name))
            found.append(manifest)
        return AdapterPage(tuple(found), "")

    def _manifests(self, behind: str = "") -> Iterator[Manifest]:
        paths = _reach(lambda: self._files.ls(f"{self._root}/manifests", detail=False, refresh=True))
        names = sorted(path.rsplit("/", 1)[-1].removesuffix(".json") for path in paths if path.endswith(".json"))
        for name in names:
            if name > behind and (manifest := self._read_manifest(name)) is not None:
                yield manifest

    def _read_manifest(self, name: str) -> Manifest | None:
        try:
            text = self._files.cat_file(self._manifest(name))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreUnavailableError(f"the store cannot be read: {error}") from error
        return _manifest_from(name, text)

    def _by_digest(self, digest: str) -> Manifest | None:
        return next((m for m in self._manifests() if m.digest == digest), None)

    def _drop_blob_if_unused(self, digest: str) -> None:
        if self._by_digest(digest) is None:
            _reach(lambda: self._files.rm_file(self._blob(digest)))

    def _sweep(self) -> None:
        """Remove blobs that no manifest names and that are old enough not to be in the making."""
        used = {self._blob(manifest.digest) for manifest in self._manifests()}
        for info in _reach(lambda: self._files.ls(f"{self._root}/blobs", detail=True)):
            age_s = time.time() - _changed(info)
            if info["name"] not in used and age_s > ORPHAN_AGE_S:
                _reach(partial(self._files.rm_file, info["name"]))

    def _write(self, path: str, data: bytes, *, exclusive: bool) -> None:
        """Write a file so that it is there as a whole or not at all, and stays after a power cut."""
        if self._is_local:
            _reach(lambda: _write_durably(Path(path), data, exclusive=exclusive))
            return
        try:
            with self._files.open(path, "xb" if exclusive else "wb") as file:
                file.write(data)
        except FileExistsError as error:
            raise AlreadyExistsError(f"adapter_name: {path.rsplit('/', 1)[-1]!r} was taken just now") from error
        except OSError as error:
            raise StoreUnavailableError(f"the store cannot be written: {error}") from error

    def _blob(self, digest: str) -> str:
        return f"{self._root}/blobs/{digest.removeprefix('sha256:')}.safetensors"

    def _manifest(self, name: str) -> str:
        return f"{self._root}/manifests/{name}.json"


def _write_durably(path: Path, data: bytes, *, exclusive: bool) -> None:
    draft = path.with_name(f".{uuid4().hex}.draft")
    with draft.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    try:
        if exclusive:
            os.link(draft, path)  # unlike a rename, refuses a name that another process took meanwhile
        else:
            draft.replace(path)
    except FileExistsError as error:
        raise AlreadyExistsError(f"adapter_name: {path.stem!r} was taken just now") from error
    finally:
        draft.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _reach(action: Callable[[], T]) -> T:
    """Return what ``action`` returns; what the file system raises becomes ours."""
    try:
        return action()
    except (OSError, ImportError, ValueError) as error:
        raise StoreUnavailableError(f"the store cannot be reached: {error}") from error


def _changed(info: Mapping[str, Any]) -> float:
    """Return when a file was last written, in seconds since 1970; now where the file system does not say."""
    when = info.get("mtime") or info.get("LastModified") or info.get("created")
    if isinstance(when, datetime):
        return when.timestamp()
    return float(when) if when else time.time()


def _as_text(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no place in a manifest")


def _manifest_from(name: str, text: bytes) -> Manifest:
    """Return the manifest that was written as ``text``; fields of later versions are passed over."""
    try:
        content = json.loads(text)
        concept, report = content["concept"], content["report"]
        return Manifest(
            name=content["name"],
            digest=content["digest"],
            size_bytes=content["size_bytes"],
            concept=concept and Concept(concept["name"], tuple(concept["synonyms"]), concept["kind"]),
            method=content["method"],
            rank=content["rank"],
            strength=content["strength"],
            steps=content["steps"],
            seed=content["seed"],
            labels=content["labels"],
            create_time=datetime.fromisoformat(content["create_time"]).astimezone(UTC),
            base_model=_known(BaseModel, content["base_model"]),
            has_final_norm=content["has_final_norm"],
            report=report and _report_from(report),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptedError(f"adapter: the manifest of {name!r} cannot be read: {error!r}") from error


def _report_from(content: Mapping[str, Any]) -> Report:
    drifts = {name: _known(Drift, content[name]) for name in ("concept_drift", "retain_drift")}
    return _known(Report, {**content, **drifts})


def _known(kind: type[T], content: Mapping[str, Any]) -> T:
    """Return ``kind`` from those of its fields that ``content`` has."""
    names = kind.__dataclass_fields__  # type: ignore[attr-defined]
    return kind(**{name: value for name, value in content.items() if name in names})
