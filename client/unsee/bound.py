"""Stored adapters that know their client, and so can be fetched."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from unsee.adapters import AdapterInfo
from unsee.channel import PathInput
from unsee.names import AdapterFormat
from unsee.transfer import save_adapter


class AsyncDownloads(Protocol):
    """What an adapter asks of the client that it came from."""

    async def download(self, adapter: str, format: AdapterFormat = "diffusers") -> bytes:
        """Return an adapter's bytes in a layout."""
        ...


class Downloads(Protocol):
    """What an adapter asks of the client that it came from."""

    def download(self, adapter: str, format: AdapterFormat = "diffusers") -> bytes:
        """Return an adapter's bytes in a layout."""
        ...


@dataclass(frozen=True)
class AsyncAdapter(AdapterInfo):
    """An adapter on the server.

    Example:
        >>> adapter = await client.get_adapter("no-cat")
        >>> await adapter.save("no-cat.safetensors")
        PosixPath('no-cat.safetensors')
    """

    _client: AsyncDownloads = field(repr=False, compare=False)

    async def bytes(self, format: AdapterFormat = "diffusers") -> bytes:
        """Return the adapter's bytes in a layout; peft's is a zip.

        Raises:
            FailedPreconditionError: the layout cannot hold this adapter.
        """
        return await self._client.download(self.digest, format)

    async def save(self, path: PathInput, format: AdapterFormat = "diffusers", *, replace: bool = False) -> Path:
        """Write the adapter to a file, or for peft to a new folder, and return the path.

        A file that is there is replaced; with ``replace``, a folder that holds nothing but an adapter is too.
        """
        return save_adapter(path, await self.bytes(format), format, replace=replace)


@dataclass(frozen=True)
class Adapter(AdapterInfo):
    """An adapter on the server.

    Example:
        >>> client.get_adapter("no-cat").save("no-cat.safetensors")
        PosixPath('no-cat.safetensors')
    """

    _client: Downloads = field(repr=False, compare=False)

    def bytes(self, format: AdapterFormat = "diffusers") -> bytes:
        """Return the adapter's bytes in a layout; peft's is a zip.

        Raises:
            FailedPreconditionError: the layout cannot hold this adapter.
        """
        return self._client.download(self.digest, format)

    def save(self, path: PathInput, format: AdapterFormat = "diffusers", *, replace: bool = False) -> Path:
        """Write the adapter to a file, or for peft to a new folder, and return the path.

        A file that is there is replaced; with ``replace``, a folder that holds nothing but an adapter is too.
        """
        return save_adapter(path, self.bytes(format), format, replace=replace)
