"""Adapters' bytes: in chunks up and down, checked, and onto the disk."""

import hashlib
import io
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from unsee.errors import DataLossError, InvalidArgumentError
from unsee.images import read_file, write_file
from unsee.names import FORMATS, AdapterFormat
from unsee.options import ImportOptions
from unsee.requests import check_names, wire, wire_concept
from unsee.v1 import adapters_pb2

CHUNK_BYTES = 512 * 2**10
_PEFT_FILES = {"adapter_config.json", "adapter_model.safetensors"}


@dataclass
class Download:
    """Bytes as they come in; where a stream breaks, the next one goes on at ``len(data)``."""

    header: adapters_pb2.AdapterHeader | None = None
    data: bytearray = field(default_factory=bytearray)

    def add(self, response: adapters_pb2.DownloadAdapterResponse) -> None:
        """Take the next part.

        Raises:
            DataLossError: a chunk is damaged or out of place, or the adapter was replaced meanwhile.
        """
        if response.HasField("header"):
            if self.header is not None and self.header.sha256 != response.header.sha256:
                raise DataLossError("the adapter was replaced while it was downloaded; download it again")
            self.header = response.header
            return
        chunk = response.chunk
        if chunk.offset != len(self.data) or zlib.crc32(chunk.data) != chunk.crc32:
            raise DataLossError(f"the chunk at {chunk.offset} is damaged or out of place; download it again")
        self.data += chunk.data

    def finished(self) -> bytes:
        """Return all bytes.

        Raises:
            DataLossError: they differ from what the header says.
        """
        digest = f"sha256:{hashlib.sha256(self.data).hexdigest()}"
        if self.header is None or digest != self.header.sha256:
            raise DataLossError(f"got bytes with the digest {digest}, expected {self.header and self.header.sha256}")
        return bytes(self.data)


def upload(
    source: str | os.PathLike[str] | bytes, options: ImportOptions
) -> Iterator[adapters_pb2.ImportAdapterRequest]:
    """Return the parts of an import, the source read and everything checked.

    Args:
        source: a safetensors file, bytes of one, or a folder as peft writes it.
        options: what else it takes.

    Raises:
        InvalidArgumentError: it cannot be read, or a value does not fit the wire.
        TypeError: there is no such option.
    """
    check_names(options, ImportOptions)
    concept, synonyms = options.get("concept"), options.get("synonyms", ())
    if concept is None and synonyms:
        raise InvalidArgumentError.of("synonyms", f"got {synonyms!r} without a concept, allowed with one")
    data = source if isinstance(source, bytes) else _read_adapter(Path(source))
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    begin = wire(
        adapters_pb2.ImportAdapterBegin,
        header=wire(adapters_pb2.AdapterHeader, name=options.get("name"), size_bytes=len(data), sha256=digest),
        replace=options.get("replace", False),
        labels=options.get("labels") or {},
        concept=None if concept is None else wire_concept(concept, synonyms, options.get("kind", "object")),
    )
    return chain([adapters_pb2.ImportAdapterRequest(begin=begin)], _chunks(data))


def _chunks(data: bytes) -> Iterator[adapters_pb2.ImportAdapterRequest]:
    for offset in range(0, len(data), CHUNK_BYTES):
        part = data[offset : offset + CHUNK_BYTES]
        chunk = adapters_pb2.AdapterChunk(offset=offset, data=part, crc32=zlib.crc32(part))
        yield adapters_pb2.ImportAdapterRequest(chunk=chunk)


def save_adapter(path: str | os.PathLike[str], data: bytes, layout: AdapterFormat, *, replace: bool = False) -> Path:
    """Write an adapter, as a whole or not at all, and return its path: a file, or for peft a folder.

    Args:
        path: where to; a file that is there is replaced.
        data: the adapter's bytes.
        layout: of these.
        replace: a folder that is there gives way too, unless it holds anything but an adapter.

    Raises:
        InvalidArgumentError: it cannot be written.
    """
    if layout != "peft":
        return write_file(Path(path), data)
    folder = Path(path)
    if folder.exists() and not (replace and _holds_an_adapter_alone(folder)):
        allowed = "a folder that holds nothing but an adapter" if replace else "a folder that does not"
        raise InvalidArgumentError.of("path", f"{folder} exists, allowed {allowed}")
    try:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as around:
            draft = Path(around) / "new"
            draft.mkdir()
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                for name in sorted(_PEFT_FILES):
                    archive.extract(name, draft)
            if folder.exists():
                folder.rename(Path(around) / "replaced")
            draft.rename(folder)
    except (zipfile.BadZipFile, KeyError) as error:
        raise DataLossError(f"the server's zip for peft cannot be read: {error}") from error
    except OSError as error:
        raise InvalidArgumentError.of("path", f"{folder} cannot be written: {error.strerror}") from error
    return folder


def _holds_an_adapter_alone(folder: Path) -> bool:
    return folder.is_dir() and {path.name for path in folder.iterdir()} <= _PEFT_FILES


def check_format(layout: AdapterFormat) -> None:
    """Raise InvalidArgumentError unless the layout is a known one."""
    if layout not in FORMATS:
        raise InvalidArgumentError.of("format", f"got {layout!r}, allowed {', '.join(FORMATS)}")


def _read_adapter(path: Path) -> bytes:
    if not path.is_dir():
        return read_file(path, "source")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(_PEFT_FILES):
            archive.writestr(name, read_file(path / name, "source"))
    return packed.getvalue()
