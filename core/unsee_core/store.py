"""Durable adapters: an immutable content-addressed blob, then a manifest, written last.

    blobs/<sha256>.safetensors    the adapter's bytes
    images/<sha256>.png           pictures of its report, where they were to be kept
    manifests/<name>.json         what ``Manifest`` holds; an adapter exists as soon as this does

A writer killed between the two leaves a blob that nobody sees; the next writer of the same bytes reuses its place, and
whoever opens the store an hour later removes it. In a local folder, writers of several processes wait for each other.
Elsewhere they cannot: a name is still taken only once where the file system can refuse to write over a file, but a blob
that is stored again in the instant in which another process deletes its last manifest may get lost, and reading that
adapter then says so.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from unsee_core.answers import Manifest
from unsee_core.checks import check_adapter_name, check_adapter_ref
from unsee_core.durable_files import DurableFiles
from unsee_core.errors import AlreadyExistsError, CorruptedError, InvalidRequestError, NotFoundError
from unsee_core.manifests import (
    DEFAULT_PAGE_SIZE,
    MAX_PAGE_SIZE,
    AdapterPage,
    AdapterQuery,
    manifest_from_json,
    manifest_to_json,
)

__all__ = ["AdapterPage", "AdapterQuery", "AdapterStore"]

ORPHAN_AGE_S = 3600.0
logger = logging.getLogger(__name__)


class AdapterStore:
    """Adapters in a folder or in whatever else fsspec reaches; safe between threads.

    Args:
        url: a path, ``file://``, ``memory://`` or another of fsspec's; made if it is not there.

    Raises:
        StoreUnavailableError: it cannot be read or written; as every method.
    """

    def __init__(self, url: str) -> None:
        self._files = DurableFiles(url, "blobs", "images", "manifests")
        with self._files.one_writer():
            self._sweep()

    def put(
        self, name: str, data: bytes, manifest: Manifest, *, replace: bool, images: Mapping[str, bytes] | None = None
    ) -> Manifest:
        """Store an adapter and return its manifest.

        Args:
            name: of the manifest.
            data: the blob.
            manifest: its digest is that of ``data``.
            replace: an adapter of this name gives way; else that is an error.
            images: those of the manifest, by digest.

        Raises:
            AlreadyExistsError: the name is taken and ``replace`` is false.
        """
        with self._files.one_writer():
            old = self._digest_of(name)
            if old is not None and not replace:
                raise _taken(name, old)
            outdated = self._files_of(name)
            self._files.write(_blob(manifest.digest), data)
            for digest, image in (images or {}).items():
                self._files.write(_image(digest), image)
            try:
                self._files.write(_manifest(name), manifest_to_json(manifest), exclusive=not replace)
            except FileExistsError as error:  # another process took the name just now
                raise _taken(name, self._digest_of(name)) from error
            self._remove_unused(outdated)
        return manifest

    def amend(self, name: str, digest: str, change: Callable[[Manifest], Manifest]) -> Manifest:
        """Store what ``change`` makes of a manifest, and return it; its digest stays.

        Raises:
            NotFoundError: no adapter has this name and digest, or no longer.
            CorruptedError: the manifest cannot be read.
        """
        with self._files.one_writer():
            manifest = self._read_manifest(name)
            if manifest is None or manifest.digest != digest:
                raise NotFoundError(f"adapter: {name!r} with the digest {digest} is not there")
            amended = change(manifest)
            self._files.write(_manifest(name), manifest_to_json(amended))
        return amended

    def check_name_is_free(self, name: str) -> None:
        """Raise AlreadyExistsError if an adapter has this name."""
        old = self._digest_of(name)
        if old is not None:
            raise _taken(name, old)

    def get(self, ref: str) -> Manifest:
        """Return a manifest by name or digest; of names that share a digest, the first.

        Raises:
            NotFoundError: there is none.
            CorruptedError: it cannot be read.
        """
        check_adapter_ref("adapter", ref)
        is_digest = ref.startswith("sha256:")
        found = next((m for m in self._manifests() if m.digest == ref), None) if is_digest else self._read_manifest(ref)
        if found is None:
            raise NotFoundError(f"adapter: {ref!r} is not there")
        return found

    def read(self, digest: str) -> bytes:
        """Return an adapter's bytes.

        Raises:
            NotFoundError: no adapter has this digest.
            CorruptedError: the bytes differ from their digest.
        """
        return self._checked(_blob(digest), digest)

    def read_image(self, digest: str) -> bytes:
        """Return a kept picture's file.

        Raises:
            NotFoundError: no adapter has it any longer.
            CorruptedError: the bytes differ from their digest.
        """
        return self._checked(_image(digest), digest)

    def open(self, ref: str) -> tuple[Manifest, bytes]:
        """Return a manifest and the bytes that belong to it, also while others replace the adapter.

        Raises:
            NotFoundError: there is no such adapter.
            CorruptedError: the bytes are missing or differ from their digest.
        """
        manifest = self.get(ref)
        while True:
            try:
                return manifest, self.read(manifest.digest)
            except NotFoundError as error:
                before, manifest = manifest, self.get(ref)
                if manifest == before:
                    raise CorruptedError(f"adapter: the stored bytes of {manifest.digest} are missing") from error

    def delete(self, name: str) -> None:
        """Remove a manifest, even one that cannot be read, and the blob with the last manifest that names it.

        Raises:
            NotFoundError: there is none of this name.
        """
        with self._files.one_writer():
            old = self._digest_of(name)
            if old is None:
                raise NotFoundError(f"name: {name!r} is not there")
            outdated = self._files_of(name)
            self._files.remove(_manifest(name))
            self._remove_unused(outdated)

    def list(self, query: AdapterQuery) -> AdapterPage:
        """Return a page of the manifests that the query admits, by name; unreadable ones are passed over."""
        size = min(query.page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
        found: list[Manifest] = []
        for manifest in self._manifests(behind=query.after):
            if not query.admits(manifest):
                continue
            if len(found) == size:
                return AdapterPage(tuple(found), query.token_behind(found[-1].name))
            found.append(manifest)
        return AdapterPage(tuple(found), "")

    def _checked(self, path: str, digest: str) -> bytes:
        data = self._files.read(path)
        if data is None:
            raise NotFoundError(f"adapter: {digest} is not there")
        found = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if found != digest:
            raise CorruptedError(f"adapter: the stored bytes of {digest} have the digest {found}")
        return data

    def _manifests(self, behind: str = "") -> Iterator[Manifest]:
        for name in self._names():
            if name <= behind:
                continue
            try:
                manifest = self._read_manifest(name)
            except CorruptedError:
                logger.warning("a manifest cannot be read and is passed over; asking for it by name says why")
                continue
            if manifest is not None:
                yield manifest

    def _names(self) -> Iterable[str]:
        files = (file.name for file in self._files.found("manifests") if file.name.endswith(".json"))
        return sorted(name for name in (file.removesuffix(".json") for file in files) if _is_name(name))

    def _read_manifest(self, name: str) -> Manifest | None:
        text = self._files.read(_manifest(name))
        return None if text is None else manifest_from_json(name, text)

    def _digest_of(self, name: str) -> str | None:
        """Return the digest of the adapter of this name; "" if its manifest cannot be read, None if there is none."""
        try:
            manifest = self._read_manifest(name)
        except CorruptedError:
            return ""
        return None if manifest is None else manifest.digest

    def _files_of(self, name: str) -> tuple[str, ...]:
        """Return the files that an adapter's manifest names; none if it cannot be read, or is not there."""
        try:
            manifest = self._read_manifest(name)
        except CorruptedError:
            return ()
        return () if manifest is None else _named_by(manifest)

    def _sweep(self) -> None:
        """Remove what writers that were killed left behind, once it is too old to be in the making."""
        blobs, manifests = self._files.found("blobs"), self._files.found("manifests")
        old = [f"blobs/{file.name}" for file in blobs if file.age_s > ORPHAN_AGE_S]
        old += [f"images/{file.name}" for file in self._files.found("images") if file.age_s > ORPHAN_AGE_S]
        drafts = [file for file in manifests if file.name.endswith(".draft")]
        old += [f"manifests/{file.name}" for file in drafts if file.age_s > ORPHAN_AGE_S]
        if old:
            self._remove_unused(old)

    def _remove_unused(self, paths: Sequence[str]) -> None:
        """Remove those of the files that no manifest names; none while a manifest cannot be read."""
        if not paths:
            return
        try:
            manifests = [self._read_manifest(name) for name in self._names()]
        except CorruptedError:
            logger.warning("unused blobs stay, since a manifest cannot be read")
            return
        used = {path for manifest in manifests if manifest is not None for path in _named_by(manifest)}
        for path in paths:
            if path not in used:
                self._files.remove(path)


def _blob(digest: str) -> str:
    check_adapter_ref("digest", digest)
    return f"blobs/{digest.removeprefix('sha256:')}.safetensors"


def _image(digest: str) -> str:
    check_adapter_ref("digest", digest)
    return f"images/{digest.removeprefix('sha256:')}.png"


def _named_by(manifest: Manifest) -> tuple[str, ...]:
    """Return the files that belong to a manifest."""
    return (_blob(manifest.digest), *(_image(image.digest) for image in manifest.images))


def _manifest(name: str) -> str:
    check_adapter_name("name", name)
    return f"manifests/{name}.json"


def _is_name(name: str) -> bool:
    try:
        check_adapter_name("name", name)
    except InvalidRequestError:
        return False  # somebody else's file
    return True


def _taken(name: str, digest: str | None) -> AlreadyExistsError:
    by = digest or "an adapter whose manifest cannot be read"
    return AlreadyExistsError(f"adapter_name: {name!r} is taken by {by}; set replace to overwrite it")
