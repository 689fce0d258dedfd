"""Requests about stored adapters -> what the library takes; reads their protobuf fields."""

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from google.protobuf.timestamp_pb2 import Timestamp

from unsee.v1 import adapters_pb2, common_pb2
from unsee_core.checks import check_adapter_name, check_labels, check_range
from unsee_core.errors import InvalidRequestError
from unsee_core.store import AdapterQuery
from unsee_server.choices import FORMATS, choice
from unsee_server.convert import concept
from unsee_server.transfer import Begin, Piece

if TYPE_CHECKING:
    from unsee_core.library import Format  # imports torch, which takes longer than opening the ports may


_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")


def adapter_query(request: adapters_pb2.ListAdaptersRequest) -> AdapterQuery:
    """Return the query that a ListAdapters asks for.

    Raises:
        InvalidRequestError: a field's value is not allowed.
    """
    return AdapterQuery(
        page_size=request.page_size or 100,
        page_token=request.page_token,
        labels=dict(request.labels),
        concept=request.concept,
        method=request.method,
        created_after=_time("created_after", request.created_after) if request.HasField("created_after") else None,
        created_before=_time("created_before", request.created_before) if request.HasField("created_before") else None,
    )


def adapter_of(
    request: adapters_pb2.GetAdapterRequest | adapters_pb2.DownloadAdapterRequest | adapters_pb2.GetReportImagesRequest,
) -> str:
    """Return the name or digest that is asked for."""
    return request.adapter


def name_of(request: adapters_pb2.DeleteAdapterRequest) -> str:
    """Return the name of the adapter to be deleted."""
    return request.name


def download_format(request: adapters_pb2.DownloadAdapterRequest) -> "Format":
    """Return the layout that is asked for.

    Raises:
        InvalidRequestError: the server does not know it.
    """
    return choice("format", request.format, FORMATS, common_pb2.AdapterFormat.DESCRIPTOR)


def download_offset(request: adapters_pb2.DownloadAdapterRequest, size: int) -> int:
    """Return the first byte to send.

    Raises:
        InvalidRequestError: it lies beyond the end.
    """
    check_range("offset", request.offset, 0, size)
    return request.offset


def import_begin(request: adapters_pb2.ImportAdapterRequest, *, max_bytes: int) -> Begin:
    """Return how an import begins.

    Args:
        request: the first message of the stream.
        max_bytes: largest adapter that the server takes.

    Raises:
        InvalidRequestError: the stream begins with something else, or a field's value is not allowed.
    """
    if request.WhichOneof("part") != "begin":
        raise InvalidRequestError.of("begin", "got no begin as the first message, allowed a begin and then chunks")
    begin, header = request.begin, request.begin.header
    if header.name:
        check_adapter_name("begin.header.name", header.name)
    check_range("begin.header.size_bytes", header.size_bytes, 1, max_bytes)
    if not _DIGEST.match(header.sha256):
        allowed = "sha256: and 64 lower-case hex digits"
        raise InvalidRequestError.of("begin.header.sha256", f"got {header.sha256[:80]!r}, allowed {allowed}")
    layout = choice("begin.header.format", header.format, FORMATS, common_pb2.AdapterFormat.DESCRIPTOR)
    labels = dict(begin.labels)
    check_labels(labels)
    return Begin(
        name=header.name or None,
        size_bytes=header.size_bytes,
        sha256=header.sha256,
        layout=layout if header.format else None,
        replace=begin.replace,
        labels=labels,
        concept=concept(begin, "begin.concept") if begin.HasField("concept") else None,
    )


def import_piece(request: adapters_pb2.ImportAdapterRequest) -> Piece:
    """Return a piece of an import.

    Raises:
        InvalidRequestError: it is none.
    """
    if request.WhichOneof("part") != "chunk":
        raise InvalidRequestError.of("chunk", "got no chunk after the begin, allowed chunks alone")
    return Piece(offset=request.chunk.offset, data=request.chunk.data, crc32=request.chunk.crc32)


def _time(path: str, timestamp: Timestamp) -> datetime:
    try:
        return timestamp.ToDatetime(tzinfo=UTC)
    except ValueError as error:
        raise InvalidRequestError.of(
            path, f"got {timestamp.seconds} s and {timestamp.nanos} ns, allowed years 1-9999"
        ) from error
