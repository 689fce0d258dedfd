"""Listing, describing, deleting, downloading and importing adapters."""

import hashlib
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from tests.server.world import World, refused
from unsee.v1 import adapters_pb2, common_pb2


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


async def download(world: World, adapter: str, **fields: Any) -> tuple[adapters_pb2.AdapterHeader, bytes]:
    """Return header and bytes, after checking every chunk."""
    request = adapters_pb2.DownloadAdapterRequest(adapter=adapter, **fields)
    parts = [part async for part in world.stub.DownloadAdapter(request)]
    data = b""
    for part in parts[1:]:
        assert part.chunk.offset == request.offset + len(data)
        assert part.chunk.crc32 == zlib.crc32(part.chunk.data)
        data += part.chunk.data
    return parts[0].header, data


def import_parts(data: bytes, *, piece: int = 7000, **begin: Any) -> list[adapters_pb2.ImportAdapterRequest]:
    """Return the messages of an import."""
    header = adapters_pb2.AdapterHeader(size_bytes=len(data), sha256=digest(data), **begin.pop("header", {}))
    parts = [adapters_pb2.ImportAdapterRequest(begin=adapters_pb2.ImportAdapterBegin(header=header, **begin))]
    for start in range(0, len(data), piece):
        part = data[start : start + piece]
        chunk = adapters_pb2.AdapterChunk(offset=start, data=part, crc32=zlib.crc32(part))
        parts.append(adapters_pb2.ImportAdapterRequest(chunk=chunk))
    return parts


async def stream(parts: list[adapters_pb2.ImportAdapterRequest]) -> AsyncIterator[adapters_pb2.ImportAdapterRequest]:
    for part in parts:
        yield part


@pytest.fixture
async def cat(world: World) -> common_pb2.Adapter:
    """An adapter in the store, called no-cat."""
    return await world.erase(adapter_name="no-cat", labels={"team": "a"})


async def test_adapters_are_listed_by_name_page_by_page(world: World, cat: common_pb2.Adapter) -> None:
    data = (await download(world, "no-cat"))[1]
    for name in ("b", "a"):
        await world.stub.ImportAdapter(stream(import_parts(data, header={"name": name})))
    request = adapters_pb2.ListAdaptersRequest(page_size=2)
    first = await world.stub.ListAdapters(request)
    assert [adapter.name for adapter in first.adapters] == ["a", "b"]
    request.page_token = first.next_page_token
    second = await world.stub.ListAdapters(request)
    assert list(second.adapters) == [cat]
    assert second.next_page_token == ""


@pytest.mark.parametrize(
    ("filters", "is_listed"),
    [
        ({"labels": {"team": "a"}}, True),
        ({"labels": {"team": "b"}}, False),
        ({"concept": "CAT"}, True),
        ({"concept": "dog"}, False),
        ({"method": "few_shot_lora"}, True),
        ({"method": "x"}, False),
        ({"created_after": Timestamp(seconds=1)}, True),
        ({"created_before": Timestamp(seconds=1)}, False),
    ],
)
async def test_a_list_is_filtered(world: World, cat: common_pb2.Adapter, filters: dict, is_listed: bool) -> None:
    page = await world.stub.ListAdapters(adapters_pb2.ListAdaptersRequest(**filters))
    assert list(page.adapters) == ([cat] if is_listed else [])


@pytest.mark.parametrize(
    ("fields", "at_fault"),
    [
        ({"page_size": -1}, "page_size"),
        ({"page_token": "x"}, "page_token"),
        ({"created_after": Timestamp(seconds=-(10**13))}, "created_after"),
    ],
)
async def test_a_list_that_is_not_allowed_names_the_field(world: World, fields: dict, at_fault: str) -> None:
    answer = await refused(world.stub.ListAdapters(adapters_pb2.ListAdaptersRequest(**fields)))
    assert (answer.code, answer.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [at_fault])


async def test_an_adapter_is_described_by_name_and_by_digest(world: World, cat: common_pb2.Adapter) -> None:
    for ref in (cat.name, cat.digest):
        assert (await world.stub.GetAdapter(adapters_pb2.GetAdapterRequest(adapter=ref))).adapter == cat
    unknown = await refused(world.stub.GetAdapter(adapters_pb2.GetAdapterRequest(adapter="nobody")))
    assert unknown.code == grpc.StatusCode.NOT_FOUND
    malformed = await refused(world.stub.GetAdapter(adapters_pb2.GetAdapterRequest(adapter="../x")))
    assert malformed.fields == ["adapter"]


async def test_a_deleted_adapter_is_gone(world: World, cat: common_pb2.Adapter) -> None:
    by_digest = await refused(world.stub.DeleteAdapter(adapters_pb2.DeleteAdapterRequest(name=cat.digest)))
    assert by_digest.fields == ["name"]
    await world.stub.DeleteAdapter(adapters_pb2.DeleteAdapterRequest(name="no-cat"))
    assert not (await world.stub.ListAdapters(adapters_pb2.ListAdaptersRequest())).adapters
    again = await refused(world.stub.DeleteAdapter(adapters_pb2.DeleteAdapterRequest(name="no-cat")))
    assert again.code == grpc.StatusCode.NOT_FOUND


async def test_a_download_is_what_was_stored(world: World, cat: common_pb2.Adapter) -> None:
    header, data = await download(world, "no-cat")
    assert (header.name, header.size_bytes, header.sha256) == ("no-cat", cat.size_bytes, cat.digest)
    assert header.format == common_pb2.ADAPTER_FORMAT_DIFFUSERS
    assert digest(data) == cat.digest


async def test_a_download_goes_on_from_an_offset(world: World, cat: common_pb2.Adapter) -> None:
    _, whole = await download(world, "no-cat")
    header, rest = await download(world, "no-cat", offset=100)
    assert (header.sha256, rest) == (cat.digest, whole[100:])
    assert (await download(world, "no-cat", offset=len(whole)))[1] == b""
    beyond = adapters_pb2.DownloadAdapterRequest(adapter="no-cat", offset=len(whole) + 1)
    assert (await refused(world.stub.DownloadAdapter(beyond))).fields == ["offset"]


@pytest.mark.parametrize("layout", [common_pb2.ADAPTER_FORMAT_PEFT, common_pb2.ADAPTER_FORMAT_KOHYA])
async def test_another_layout_comes_back_as_the_same_adapter(
    world: World, cat: common_pb2.Adapter, layout: common_pb2.AdapterFormat.ValueType
) -> None:
    header, data = await download(world, "no-cat", format=layout)
    assert (header.format, header.sha256) == (layout, digest(data))
    parts = import_parts(data, header={"name": "copy", "format": layout})
    copy = (await world.stub.ImportAdapter(stream(parts))).adapter
    assert copy.rank == cat.rank


async def test_an_import_is_stored_as_it_was(world: World, cat: common_pb2.Adapter) -> None:
    _, data = await download(world, "no-cat")
    await world.stub.DeleteAdapter(adapters_pb2.DeleteAdapterRequest(name="no-cat"))
    stored = (await world.stub.ImportAdapter(stream(import_parts(data, labels={"team": "b"})))).adapter
    assert (stored.digest, stored.concept.name, dict(stored.labels)) == (cat.digest, "cat", {"team": "b"})
    assert stored.name == f"cat-{cat.digest.removeprefix('sha256:')[:8]}"


async def test_an_import_under_a_taken_name_is_refused_unless_it_replaces(
    world: World, cat: common_pb2.Adapter
) -> None:
    _, data = await download(world, "no-cat")
    parts = import_parts(data, header={"name": "no-cat"})
    assert (await refused(world.stub.ImportAdapter(stream(parts)))).code == grpc.StatusCode.ALREADY_EXISTS
    parts[0].begin.replace = True
    assert (await world.stub.ImportAdapter(stream(parts))).adapter.digest == cat.digest


async def test_a_taken_name_is_refused_before_the_bytes_come(world: World, cat: common_pb2.Adapter) -> None:
    begin = import_parts(b"never sent", header={"name": "no-cat"})[:1]
    assert (await refused(world.stub.ImportAdapter(stream(begin)))).code == grpc.StatusCode.ALREADY_EXISTS


async def test_an_unnamed_import_of_stored_bytes_is_the_stored_adapter(world: World, cat: common_pb2.Adapter) -> None:
    for layout in (common_pb2.ADAPTER_FORMAT_DIFFUSERS, common_pb2.ADAPTER_FORMAT_KOHYA):
        _, data = await download(world, "no-cat", format=layout)
        assert (await world.stub.ImportAdapter(stream(import_parts(data)))).adapter == cat
    assert list((await world.stub.ListAdapters(adapters_pb2.ListAdaptersRequest())).adapters) == [cat]


Parts = list[adapters_pb2.ImportAdapterRequest]


def with_header(**fields: Any) -> Callable[[Parts], Parts]:
    """Return what changes the header of an import."""

    def change(parts: Parts) -> Parts:
        parts[0].begin.header.MergeFrom(adapters_pb2.AdapterHeader(**fields))
        for name in [name for name, value in fields.items() if not value]:
            parts[0].begin.header.ClearField(name)
        return parts

    return change


def one_byte_less(parts: Parts) -> Parts:
    parts[0].begin.header.size_bytes -= 1
    return parts


def with_labels(parts: Parts) -> Parts:
    parts[0].begin.labels["A B"] = "c"
    return parts


def with_data(size: int) -> Callable[[Parts], Parts]:
    """Return what puts zeros into the first chunk; 0: as many as it had."""

    def change(parts: Parts) -> Parts:
        parts[1].chunk.data = bytes(size or len(parts[1].chunk.data))
        return parts

    return change


@pytest.mark.parametrize(
    ("spoil", "at_fault"),
    [
        (lambda parts: [], "begin"),
        (lambda parts: parts[1:], "begin"),
        (lambda parts: [parts[0], parts[0]], "chunk"),
        (with_header(size_bytes=2**40), "begin.header.size_bytes"),
        (with_header(size_bytes=0), "begin.header.size_bytes"),
        (with_header(sha256=digest(b"x")), "begin.header.sha256"),
        (with_header(sha256=""), "begin.header.sha256"),
        (with_header(format=common_pb2.ADAPTER_FORMAT_KOHYA), "begin.header.format"),
        (with_header(name="../x"), "begin.header.name"),
        (with_labels, "labels"),
        (lambda parts: parts[:-1], "begin.header.size_bytes"),
        (lambda parts: [*parts[:2], *parts[3:]], "chunk.offset"),
        (with_data(0), "chunk.crc32"),
        (one_byte_less, "chunk.data"),
        (with_data(2**20 + 1), "chunk.data"),
    ],
)
async def test_an_import_that_is_not_allowed_names_the_field(
    world: World, cat: common_pb2.Adapter, spoil: Callable[[Parts], Parts], at_fault: str
) -> None:
    _, data = await download(world, "no-cat")
    parts = spoil(import_parts(data, header={"name": "copy"}))
    answer = await refused(world.stub.ImportAdapter(stream(parts)))
    assert (answer.code, answer.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [at_fault])
    assert [a.name for a in (await world.stub.ListAdapters(adapters_pb2.ListAdaptersRequest())).adapters] == ["no-cat"]


@pytest.mark.parametrize("data", [b"\x80\x04pickle" * 9, b"PK\x03\x04" + bytes(99), bytes(99)])
async def test_what_is_no_adapter_is_refused(world: World, data: bytes) -> None:
    answer = await refused(world.stub.ImportAdapter(stream(import_parts(data))))
    assert (answer.code, answer.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "ADAPTER_FORMAT")
