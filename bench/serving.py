"""A real server on 127.0.0.1 for benches, in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import unsee


@contextmanager
def running_server(model: str, folder: Path, *, threads: int, timeout_s: float = 180) -> Iterator[str]:
    """Run the server on a free port with its store in ``folder`` and give its address; stopped afterwards.

    Raises:
        RuntimeError: it ended, or did not answer in time; with its log.
    """
    log = folder / "server.log"
    command = [sys.executable, "-m", "unsee_server", "--model", model, "--store", str(folder / "store"), "--port", "0"]
    with log.open("wb") as output:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        yield _address(process, log, timeout_s)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def _address(process: "subprocess.Popen[bytes]", log: Path, timeout_s: float) -> str:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and process.poll() is None:
        logged = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
        events = {entry["event"]: entry for entry in logged}
        if "ready" in events and "listening" in events:
            target = f"127.0.0.1:{events['listening']['port']}"
            with unsee.Client(target) as client:
                client.server_info()
            return target
        time.sleep(0.2)
    raise RuntimeError(f"the server does not answer:\n{log.read_text()}")
