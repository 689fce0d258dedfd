"""The store: names, digests, lists, and what is left when a writer dies."""

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest

from tests.core.adapters import manifest_of
from unsee_core.answers import Drift, KeptImage, Report
from unsee_core.errors import (
    AlreadyExistsError,
    CorruptedError,
    InvalidRequestError,
    NotFoundError,
    StoreUnavailableError,
)
from unsee_core.manifests import manifest_from_json, manifest_to_json
from unsee_core.store import ORPHAN_AGE_S, AdapterQuery, AdapterStore

CAT, DOG = b"the bytes of a cat", b"the bytes of a dog"
DRIFT = Drift(0.1, 0.2, 0.3, "a cat", 24)


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty place, on the disk and in memory."""
    if request.param == "file":
        yield f"file://{tmp_path}/store"
        return
    place = f"memory://{uuid4().hex}"
    yield place
    fsspec.filesystem("memory").rm(place, recursive=True)


@pytest.fixture
def store(url: str) -> AdapterStore:
    return AdapterStore(url)


def put(store: AdapterStore, name: str, data: bytes = CAT, *, replace: bool = False, **fields: Any) -> None:
    store.put(name, data, manifest_of(name, data, **fields), replace=replace)


def names(store: AdapterStore, **query: Any) -> list[str]:
    return [manifest.name for manifest in store.list(AdapterQuery(**query)).manifests]


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != "lock")


def test_an_adapter_is_found_by_name_and_by_digest_also_after_opening_anew(store: AdapterStore, url: str) -> None:
    put(store, "no-cat")
    for opened in (store, AdapterStore(url)):
        manifest = opened.get("no-cat")
        assert manifest == manifest_of("no-cat", CAT)
        assert opened.get(manifest.digest) == manifest
        assert opened.read(manifest.digest) == CAT
        assert opened.open("no-cat") == (manifest, CAT)


def test_a_taken_name_stays_as_it_is_unless_replaced(store: AdapterStore) -> None:
    put(store, "pet")
    with pytest.raises(AlreadyExistsError, match="'pet' is taken by sha256"):
        put(store, "pet", DOG)
    assert store.open("pet")[1] == CAT
    with pytest.raises(NotFoundError):
        store.read(manifest_of("pet", DOG).digest)
    put(store, "pet", DOG, replace=True)
    assert store.open("pet")[1] == DOG
    with pytest.raises(NotFoundError):
        store.read(manifest_of("pet", CAT).digest)


def test_bytes_shared_by_names_live_until_the_last_of_them_goes(store: AdapterStore) -> None:
    digest = manifest_of("a", CAT).digest
    put(store, "a")
    put(store, "b")
    assert store.get(digest).name == "a"
    store.delete("a")
    assert store.get(digest).name == "b"
    assert store.read(digest) == CAT
    store.delete("b")
    for ask in (store.get, store.read):
        with pytest.raises(NotFoundError):
            ask(digest)
    with pytest.raises(NotFoundError, match="'b' is not there"):
        store.delete("b")


def test_replacing_an_adapter_by_itself_keeps_its_bytes(store: AdapterStore) -> None:
    put(store, "a")
    put(store, "a", replace=True)
    assert store.open("a")[1] == CAT


@pytest.mark.parametrize(
    "name", ["../a", "a/b", "/etc/passwd", "", ".", "..", "A", "a\0", "x" * 64, "sha256:../../a", "a\n"]
)
def test_no_name_and_no_digest_leads_out_of_the_store(store: AdapterStore, name: str) -> None:
    attempts: list[Callable[[], object]] = [
        lambda: store.get(name),
        lambda: store.open(name),
        lambda: store.read(name),
        lambda: store.delete(name),
        lambda: put(store, name),
        lambda: store.put("a", CAT, dataclasses.replace(manifest_of("a", CAT), digest=f"sha256:{name}"), replace=True),
    ]
    for attempt in attempts:
        with pytest.raises(InvalidRequestError):
            attempt()
    assert names(store) == []


def test_changed_bytes_are_told_and_never_handed_out(tmp_path: Path) -> None:
    store = AdapterStore(str(tmp_path))
    put(store, "a")
    (blob,) = (tmp_path / "blobs").iterdir()
    blob.write_bytes(CAT + b"!")
    for read in (lambda: store.open("a"), lambda: store.read(store.get("a").digest)):
        with pytest.raises(CorruptedError, match="have the digest"):
            read()
    put(store, "b")  # storing the same bytes again heals it
    assert store.open("a")[1] == CAT
    blob.unlink()
    with pytest.raises(CorruptedError, match="are missing"):
        store.open("a")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": "b"}', "null", '{"name": 5}'])
def test_an_unreadable_manifest_hides_nothing_else_and_can_be_replaced_or_deleted(tmp_path: Path, text: str) -> None:
    store = AdapterStore(str(tmp_path))
    put(store, "a")
    put(store, "b", DOG)
    put(store, "c")
    (tmp_path / "manifests/b.json").write_text(text)
    assert names(AdapterStore(str(tmp_path))) == ["a", "c"]
    with pytest.raises(CorruptedError, match="manifest of 'b'"):
        store.get("b")
    with pytest.raises(AlreadyExistsError, match="manifest cannot be read"):
        put(store, "b", CAT)
    store.delete("a")
    assert len(list((tmp_path / "blobs").iterdir())) == 2, "an unreadable manifest may name any blob"
    put(store, "b", DOG, replace=True)
    assert store.open("b")[1] == DOG
    (tmp_path / "manifests/b.json").write_text(text)
    store.delete("b")
    assert names(store) == ["c"]


def test_a_manifest_comes_back_whole_and_passes_over_what_a_later_version_adds() -> None:
    report = Report(DRIFT, DRIFT, 0.01, None, 0.5, {"train": 1.5})
    manifest = dataclasses.replace(manifest_of("a", CAT, team="x"), report=report)
    text = manifest_to_json(manifest)
    assert manifest_from_json("a", text) == manifest
    content = json.loads(text)
    assert content["schema"] == 1
    content |= {
        "audit": {},
        "report": content["report"] | {"new": 1},
        "base_model": asdict(manifest.base_model) | {"x": 1},
    }
    assert manifest_from_json("a", json.dumps(content).encode()) == manifest
    imported = dataclasses.replace(manifest, concept=None)
    assert manifest_from_json("a", manifest_to_json(imported)) == imported


def test_a_list_is_in_the_order_of_names_and_comes_in_pages(store: AdapterStore) -> None:
    for name in ("b", "a.x", "c", "a", "a-b"):
        put(store, name)
    assert names(store) == ["a", "a-b", "a.x", "b", "c"]
    found, token = [], ""
    for expected in (2, 2, 1):
        page = store.list(AdapterQuery(page_size=2, page_token=token))
        assert len(page.manifests) == expected
        found += [manifest.name for manifest in page.manifests]
        token = page.next_page_token
    assert (found, token) == (["a", "a-b", "a.x", "b", "c"], "")


def test_pages_neither_repeat_nor_lose_names_while_others_come_and_go(store: AdapterStore) -> None:
    for name in ("a", "b", "c", "d"):
        put(store, name)
    page = store.list(AdapterQuery(page_size=2))
    store.delete("b")
    put(store, "a1")
    rest = store.list(AdapterQuery(page_size=2, page_token=page.next_page_token))
    assert [manifest.name for manifest in rest.manifests] == ["c", "d"]


def test_the_last_page_that_is_just_full_ends_the_list(store: AdapterStore) -> None:
    for name in ("a", "b"):
        put(store, name)
    assert store.list(AdapterQuery(page_size=2)).next_page_token == ""


def test_page_sizes_have_a_default_and_a_cap(tmp_path: Path) -> None:
    store = AdapterStore(f"memory://{tmp_path.name}")
    for i in range(1001):
        store._files.write(f"manifests/n{i:04}.json", manifest_to_json(manifest_of(f"n{i:04}", CAT)))
    assert [len(names(store, page_size=size)) for size in (0, 1000, 5000)] == [100, 1000, 1000]
    with pytest.raises(InvalidRequestError, match=r"page_size: got -1, allowed 0-1000"):
        AdapterQuery(page_size=-1)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, ["a", "b", "c"]),
        ({"labels": {"team": "x"}}, ["a", "b"]),
        ({"labels": {"team": "x", "tier": "1"}}, ["b"]),
        ({"labels": {"team": ""}}, []),
        ({"concept": "DOG"}, ["c"]),
        ({"method": "few_shot_lora"}, ["a", "b", "c"]),
        ({"method": "other"}, []),
        ({"created_after": datetime(2026, 1, 2, tzinfo=UTC)}, ["b", "c"]),
        ({"created_before": datetime(2026, 1, 2, tzinfo=UTC)}, ["a"]),
        (
            {"created_after": datetime(2026, 1, 2, tzinfo=UTC), "created_before": datetime(2026, 1, 3, tzinfo=UTC)},
            ["b"],
        ),
    ],
)
def test_conditions_choose_what_is_listed(store: AdapterStore, query: dict[str, Any], expected: list[str]) -> None:
    put(store, "a", day=1, team="x")
    put(store, "b", day=2, team="x", tier="1")
    put(store, "c", day=3, concept="dog")
    assert names(store, **query) == expected


@pytest.mark.parametrize("token", ["x", "é", "====", "bm8=", "OjoK", "9" * 5000])
def test_a_token_that_no_page_ended_with_is_refused(token: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"^page_token: got "):
        AdapterQuery(page_token=token)


def test_a_token_of_a_list_with_other_conditions_is_refused(store: AdapterStore) -> None:
    for name in ("a", "b"):
        put(store, name)
    token = store.list(AdapterQuery(page_size=1)).next_page_token
    assert names(store, page_token=token, page_size=7) == ["b"]
    others: list[dict[str, Any]] = [
        {"labels": {"a": "b"}}, {"concept": "cat"}, {"method": "m"},
        {"created_after": datetime(2026, 1, 1, tzinfo=UTC)}, {"created_before": datetime(2026, 1, 1, tzinfo=UTC)},
    ]  # fmt: skip
    for other in others:
        with pytest.raises(InvalidRequestError, match="other conditions"):
            AdapterQuery(page_token=token, **other)


@pytest.mark.parametrize(
    ("field", "value"),
    [("labels", {"No": "x"}), ("concept", "\0"), ("method", "m" * 65), ("created_after", datetime(2026, 1, 1))],
)
def test_conditions_that_nothing_can_meet_are_refused(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequestError, match=field):
        AdapterQuery(**{field: value})


def test_of_eight_writers_of_one_name_exactly_one_wins(store: AdapterStore) -> None:
    begin = threading.Barrier(8)

    def attempt(i: int) -> bytes | None:
        begin.wait()
        try:
            put(store, "pet", b"%d" % i)
        except AlreadyExistsError:
            return None
        return b"%d" % i

    with ThreadPoolExecutor(8) as pool:
        (winner,) = [data for data in pool.map(attempt, range(8)) if data is not None]
    assert store.open("pet")[1] == winner


def test_readers_never_see_half_an_adapter_while_writers_replace_it(store: AdapterStore) -> None:
    put(store, "pet")
    done = threading.Event()

    def write(data: bytes) -> None:
        for _ in range(20):
            put(store, "pet", data, replace=True)

    def read() -> int:
        reads = 0
        while not done.is_set():
            manifest, data = store.open("pet")
            assert manifest == manifest_of("pet", data)
            assert names(store) == ["pet"]
            reads += 1
        return reads

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        for writer in [pool.submit(write, data) for data in (CAT, DOG)]:
            writer.result()
        done.set()
        assert all(reader.result() > 0 for reader in readers)


def test_an_adapter_replaced_between_manifest_and_bytes_is_opened_as_its_successor(
    store: AdapterStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, "pet")
    read = store.read

    def read_late(digest: str) -> bytes:
        put(store, "pet", DOG, replace=True)
        return read(digest)

    monkeypatch.setattr(store, "read", read_late)
    assert store.open("pet") == (manifest_of("pet", DOG), DOG)


def test_three_processes_take_turns_and_one_of_them_gets_the_name(tmp_path: Path) -> None:
    script = f"""
from tests.core.test_store import *
store = AdapterStore({str(tmp_path)!r})
for i in range(5):
    put(store, f"own-{{sys.argv[1]}}-{{i}}", b"shared")
    store.delete(f"own-{{sys.argv[1]}}-{{i}}")
try:
    put(store, "pet", sys.argv[1].encode())
except AlreadyExistsError:
    sys.exit(3)
"""
    writers = [subprocess.Popen([sys.executable, "-c", script, str(i)]) for i in range(3)]
    codes = [writer.wait(300) for writer in writers]
    assert sorted(codes) == [0, 3, 3]
    assert AdapterStore(str(tmp_path)).open("pet")[1] == str(codes.index(0)).encode()
    assert len(files(tmp_path)) == 2


def test_a_writer_killed_between_blob_and_manifest_leaves_nothing_visible_and_nothing_broken(tmp_path: Path) -> None:
    script = f"""
from tests.core.test_store import *
import unsee_core.store as module
def die(manifest):
    os.kill(os.getpid(), signal.SIGKILL)
store = AdapterStore({str(tmp_path)!r})
module.manifest_to_json = die
put(store, "pet")
"""
    killed = subprocess.run([sys.executable, "-c", script], check=False)
    assert killed.returncode == -signal.SIGKILL
    (blob,) = files(tmp_path)
    assert blob.startswith("blobs/")

    store = AdapterStore(str(tmp_path))
    assert names(store) == []
    for ref in ("pet", manifest_of("pet", CAT).digest):
        with pytest.raises(NotFoundError):
            store.get(ref)
    assert files(tmp_path) == [blob], "young enough to be in the making"
    put(store, "pet")
    assert files(tmp_path) == [blob, "manifests/pet.json"]
    assert store.open("pet")[1] == CAT


def test_what_dead_writers_left_is_removed_when_it_is_old_and_nothing_else(tmp_path: Path) -> None:
    store = AdapterStore(str(tmp_path))
    put(store, "pet")
    old, young = (
        ["blobs/0.safetensors", "blobs/.a.draft", "manifests/.b.draft"],
        ["blobs/1.safetensors", "manifests/.c.draft"],
    )
    for file in (*old, *young, "manifests/README.txt", "manifests/Mine.json"):
        (tmp_path / file).write_bytes(b"")
    long_ago = time.time() - ORPHAN_AGE_S - 10
    for file in files(tmp_path):
        if file not in young:
            os.utime(tmp_path / file, (long_ago, long_ago))
    before = files(tmp_path)
    assert names(AdapterStore(str(tmp_path))) == ["pet"]
    assert set(before) - set(files(tmp_path)) == set(old)
    assert store.open("pet")[1] == CAT


def test_a_full_disk_leaves_no_draft_and_the_name_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = AdapterStore(str(tmp_path))

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(StoreUnavailableError, match="No space left"):
            put(store, "pet")
    assert files(tmp_path) == []
    put(store, "pet")


@pytest.mark.parametrize("url", ["nonsense://x", "file:///proc/none/store", "/dev/null/store"])
def test_a_place_that_cannot_be_used_is_an_error_of_ours(url: str) -> None:
    with pytest.raises(StoreUnavailableError, match="the store cannot be reached"):
        AdapterStore(url)


def test_a_store_that_went_away_is_an_error_of_ours(tmp_path: Path) -> None:
    store = AdapterStore(str(tmp_path / "store"))
    put(store, "pet")
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    with pytest.raises(StoreUnavailableError):
        put(store, "other")
    with pytest.raises(NotFoundError):
        store.get("pet")


def put_shown(store: AdapterStore, name: str, *pictures: bytes, data: bytes = CAT) -> None:
    """Store an adapter with pictures of its report."""
    files = {f"sha256:{hashlib.sha256(png).hexdigest()}": png for png in pictures}
    kept = tuple(KeptImage("a dog", i, True, False, digest) for i, digest in enumerate(files))
    manifest = dataclasses.replace(manifest_of(name, data), images=kept)
    store.put(name, data, manifest, replace=True, images=files)


def kept(store: AdapterStore, name: str) -> list[bytes]:
    return [store.read_image(image.digest) for image in store.get(name).images]


def test_pictures_of_a_report_are_kept_and_leave_with_the_last_adapter_that_has_them(store: AdapterStore) -> None:
    put_shown(store, "a", b"one", b"two")
    put_shown(store, "b", b"two", b"three", data=DOG)
    assert kept(store, "a") == [b"one", b"two"]
    (one, two), (_, three) = ([image.digest for image in store.get(name).images] for name in "ab")
    store.delete("a")
    assert kept(store, "b") == [b"two", b"three"]
    with pytest.raises(NotFoundError):
        store.read_image(one)
    put_shown(store, "b", b"three", data=DOG)  # the same bytes, without one of the pictures
    assert kept(store, "b") == [b"three"]
    with pytest.raises(NotFoundError):
        store.read_image(two)
    store.delete("b")
    with pytest.raises(NotFoundError):
        store.read_image(three)


def test_a_damaged_picture_is_told_and_one_that_nobody_has_is_swept(tmp_path: Path) -> None:
    store = AdapterStore(str(tmp_path))
    put_shown(store, "a", b"one")
    (file,) = (tmp_path / "images").iterdir()
    orphan = tmp_path / "images" / f"{'0' * 64}.png"
    orphan.write_bytes(b"left behind")
    file.write_bytes(b"other")
    with pytest.raises(CorruptedError, match="have the digest"):
        kept(store, "a")
    for path in (file, orphan):
        os.utime(path, (time.time() - 2 * ORPHAN_AGE_S,) * 2)
    AdapterStore(str(tmp_path))
    assert list((tmp_path / "images").iterdir()) == [file]
