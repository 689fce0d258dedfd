"""The server as operators start it: a process of its own, on the embedded model."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import unsee


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        target: its address.
        log: the file that its output goes to.
        store: the folder of its adapters.
    """

    target: str
    log: Path
    store: Path


@pytest.fixture(scope="session")
def server(emoji: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on the embedded model, started through ``unsee serve``."""
    folder = tmp_path_factory.mktemp("server")
    log = folder / "server.log"
    command = [
        sys.executable,
        "-m",
        "unsee_server",
        "--model",
        str(emoji),
        "--store",
        str(folder / "store"),
        "--port",
        "0",
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, "OMP_NUM_THREADS": "2"})
    try:
        target = wait_until_serving(process, log)
        yield Server(target, log, folder / "store")
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0, log.read_text()


def wait_until_serving(process: "subprocess.Popen[bytes]", log: Path, timeout_s: float = 180) -> str:
    """Return the address of a server once it answers."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and process.poll() is None:
        events = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
        ready = [e for e in events if e["event"] == "ready"]
        listening = [e for e in events if e["event"] == "listening"]
        if ready and listening:
            target = f"127.0.0.1:{listening[0]['port']}"
            with unsee.Client(target) as client:
                client.server_info()
            return target
        time.sleep(0.2)
    raise AssertionError(f"the server does not answer:\n{log.read_text()}")
