"""Bytes that nobody vouches for raise AdapterFormatError, and nothing else."""

import json
import random
import struct
from collections.abc import Callable
from typing import Any

import pytest

from tests.core.adapters import METADATA, assert_same, small_bytes, small_factors
from unsee_core.adapter import export, from_bytes
from unsee_core.errors import AdapterFormatError

BLOBS = {layout: export(small_bytes(), layout) for layout in ("diffusers", "peft", "kohya")}  # type: ignore[arg-type]
JUNK = (None, True, 0, -1, 1e300, 10**30, "", "x", "\ud800", [], [[]], {}, {"x": 1}, "9" * 5000)
KEY = "text_encoder.text_model.encoder.layers.22.mlp.fc2.lora_linear_layer.down.weight"


def reads_or_refuses(data: bytes) -> bool:
    """Return whether the bytes are read; anything but AdapterFormatError fails the test."""
    message = ""
    try:
        from_bytes(data, max_bytes=2**20)
    except AdapterFormatError as error:
        message = str(error)
    assert not message or message.startswith("adapter: ")
    assert len(message) < 600
    return not message


def with_header(change: Callable[[dict[str, Any]], object]) -> bytes:
    """Return an adapter with a changed header."""
    data = small_bytes(norm=True)
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def with_metadata(change: Callable[[dict[str, Any]], object]) -> bytes:
    """Return an adapter with changed metadata."""

    def change_header(header: dict[str, Any]) -> None:
        content = json.loads(header["__metadata__"]["unsee"])
        change(content)
        header["__metadata__"]["unsee"] = json.dumps(content)

    return with_header(change_header)


@pytest.mark.parametrize("layout", BLOBS)
def test_every_truncation_is_refused(layout: str) -> None:
    data = BLOBS[layout]
    assert reads_or_refuses(data)
    for length in (*range(0, len(data), 41), len(data) - 1):
        assert not reads_or_refuses(data[:length]), length


@pytest.mark.parametrize("layout", BLOBS)
def test_changed_bytes_are_read_or_refused(layout: str) -> None:
    draw = random.Random(layout)
    refused = 0
    for _ in range(1500):
        data = bytearray(BLOBS[layout])
        for _ in range(draw.choice((1, 1, 2, 8))):
            place = draw.randrange(min(len(data), 1800) if draw.random() < 0.8 else len(data))
            data[place] = draw.randrange(256)
        if draw.random() < 0.2:
            place = draw.randrange(len(data))
            data[place:place] = draw.randbytes(draw.randrange(9))
        refused += not reads_or_refuses(bytes(data))
    assert refused > 300


def test_random_bytes_are_refused() -> None:
    draw = random.Random(0)
    for _ in range(300):
        start = draw.choice((b"", b"PK\x03\x04", struct.pack("<Q", draw.randrange(200))))
        assert not reads_or_refuses(start + draw.randbytes(draw.randrange(200)))


@pytest.mark.parametrize("field", ["dtype", "shape", "data_offsets"])
@pytest.mark.parametrize("junk", JUNK, ids=lambda junk: repr(junk)[:20])
def test_junk_in_a_tensors_description_is_refused(field: str, junk: object) -> None:
    assert not reads_or_refuses(with_header(lambda header: header[KEY].update({field: junk})))
    assert not reads_or_refuses(with_header(lambda header: header.update({KEY: junk})))


@pytest.mark.parametrize("field", ["version", *vars(METADATA)])
@pytest.mark.parametrize("junk", JUNK, ids=lambda junk: repr(junk)[:20])
def test_junk_in_the_metadata_is_read_as_something_sound_or_refused(field: str, junk: object) -> None:
    reads_or_refuses(with_metadata(lambda content: content.update({field: junk})))
    if field not in ("concept", "method"):
        nested = with_metadata(lambda content: content.update({field: {"x": junk, "name": [junk]}}))
        reads_or_refuses(nested)
    reads_or_refuses(with_metadata(lambda content: content["concept"].update({"name": junk})))
    assert not reads_or_refuses(with_metadata(lambda content: content["concept"].update({"kind": junk})))
    if field != "concepts":  # which a composed adapter alone has
        assert not reads_or_refuses(with_metadata(lambda content: content.pop(field)))


def test_metadata_of_a_later_format_are_refused() -> None:
    with pytest.raises(AdapterFormatError, match="its format is '2', allowed '1'"):
        from_bytes(with_metadata(lambda content: content.update(version="2")))


def test_a_concept_that_is_null_is_none_and_nothing_else_is() -> None:
    _, metadata = from_bytes(with_metadata(lambda content: content.update(concept=None)))
    assert metadata is not None
    assert metadata.concept is None
    for junk in (0, "", [], False):
        assert not reads_or_refuses(with_metadata(lambda content, junk=junk: content.update(concept=junk)))


@pytest.mark.parametrize("junk", ["[" * 100_000, "{", '{"a":1,"a":1}', "nul", '"\\ud800"', '{"a":NaN}'])
def test_odd_json_is_refused_wherever_it_stands(junk: str) -> None:
    data = small_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    text = junk.encode()
    assert not reads_or_refuses(struct.pack("<Q", len(text)) + text + data[8 + length :])
    assert not reads_or_refuses(with_header(lambda header: header["__metadata__"].update(unsee=junk)))
    assert not reads_or_refuses(with_header(lambda header: header["__metadata__"].update(lora_adapter_metadata=junk)))


def test_a_key_that_stands_there_twice_is_refused() -> None:
    data = small_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = data[8 : 8 + length].rstrip()
    again = json.dumps({KEY: json.loads(header)[KEY]})[1:]
    text = header[:-1] + b"," + again.encode()
    with pytest.raises(AdapterFormatError, match="a key stands there twice"):
        from_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def test_bytes_that_belong_to_no_tensor_are_refused() -> None:
    assert not reads_or_refuses(small_bytes() + b"\0")


def test_a_header_of_more_than_a_mebibyte_is_refused() -> None:
    data = with_header(lambda header: header["__metadata__"].update(filling="x" * 2**20))
    with pytest.raises(AdapterFormatError, match="announce a header of 10"):
        from_bytes(data)
    assert_same(from_bytes(with_header(lambda header: header))[0], small_factors(norm=True))
