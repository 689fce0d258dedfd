"""Writers take turns: threads that share a store, and stores that share a local folder as two processes would."""

import sys
import threading
from pathlib import Path

import pytest

from unsee_core.durable_files import DurableFiles


@pytest.mark.parametrize("place", ["two stores of one folder", "one store in memory"])
def test_a_writer_waits_until_the_one_before_is_done(tmp_path: Path, place: str) -> None:
    is_folder = place == "two stores of one folder"
    first = DurableFiles(str(tmp_path) if is_folder else f"memory://{tmp_path.name}")
    second = DurableFiles(str(tmp_path)) if is_folder else first
    entered = threading.Event()

    def write() -> None:
        with second.one_writer():
            entered.set()

    writer = threading.Thread(target=write)
    with first.one_writer():
        writer.start()
        assert not entered.wait(0.3)
    assert entered.wait(10)
    writer.join()


def test_a_reader_sees_a_replaced_file_whole(tmp_path: Path) -> None:
    files, texts, seen = DurableFiles(f"memory://{tmp_path.name}", "a"), (b"1" * 100, b"2" * 200), set[bytes | None]()
    files.write("a/x", texts[0])
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(files.read("a/x"))

    readers = [threading.Thread(target=read) for _ in range(2)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for reader in readers:
            reader.start()
        for i in range(500):
            files.write("a/x", texts[i % 2])
    finally:
        done.set()
        sys.setswitchinterval(interval)
    for reader in readers:
        reader.join()
    assert seen <= set(texts)


@pytest.mark.parametrize("place", ["a folder", "in memory"])
def test_a_file_that_is_to_be_new_is_not_written_over_another(tmp_path: Path, place: str) -> None:
    files = DurableFiles(str(tmp_path) if place == "a folder" else f"memory://{tmp_path.name}", "a")
    files.write("a/x", b"first", exclusive=True)
    with pytest.raises(FileExistsError):
        files.write("a/x", b"second", exclusive=True)
    assert files.read("a/x") == b"first"
