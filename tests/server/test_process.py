"""The server as a process: settings, start, SIGTERM, and what it writes."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.server.world import erase_request
from unsee.v1 import service_pb2_grpc
from unsee_core.job import Limits
from unsee_server.settings import Settings, read_settings

SERVER = (sys.executable, "-m", "unsee_server")


class Process:
    """A server process; its log lines as they come."""

    def __init__(self, *flags: str) -> None:
        one_thread = os.environ | {"OMP_NUM_THREADS": "1"}  # two wait for each other on a busy machine
        self.popen = subprocess.Popen([*SERVER, *flags], stderr=subprocess.PIPE, text=True, env=one_thread)
        self.lines: list[dict[str, Any]] = []

    def wait_for(self, event: str) -> dict[str, Any]:
        """Return the next log line of this event."""
        assert self.popen.stderr
        for line in self.popen.stderr:
            self._take(line)
            if self.lines and self.lines[-1]["event"] == event:
                return self.lines[-1]
        raise AssertionError(f"ended without {event!r}: {self.lines}")

    def end(self) -> int:
        """Return the exit status, once all is read; again, if asked again."""
        assert self.popen.stderr
        if not self.popen.stderr.closed:
            with self.popen.stderr as lines:
                for line in lines:
                    self._take(line)
        return self.popen.wait()

    def _take(self, line: str) -> None:
        if line.startswith("{"):  # gRPC's own core writes other lines when a port is taken
            self.lines.append(json.loads(line))


@pytest.fixture
def process(tiny: Path, tmp_path: Path) -> Iterator[Process]:
    """A server on the tiny model, on free ports."""
    running = Process("--model", str(tiny), "--store", str(tmp_path), "--port", "0", "--grace", "300")
    yield running
    running.popen.kill()
    running.end()


def test_sigterm_lets_running_work_end_and_exits_with_zero(process: Process) -> None:
    port = process.wait_for("listening")["port"]
    process.wait_for("ready")
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = service_pb2_grpc.UnseeServiceStub(channel)
        events = stub.Erase(erase_request(steps=20))
        next(events)
        process.popen.send_signal(signal.SIGTERM)
        assert [*events][-1].HasField("completed")
    assert process.end() == 0
    assert process.lines[-1]["event"] == "stopped"


def test_sigint_while_the_model_loads_ends_the_server_at_once(process: Process) -> None:
    process.wait_for("listening")
    process.popen.send_signal(signal.SIGINT)
    assert process.end() == 0
    assert "ready" not in [line["event"] for line in process.lines]


def test_a_taken_port_and_a_missing_model_are_said_in_a_line(process: Process, tmp_path: Path) -> None:
    port = process.wait_for("listening")["port"]
    second = Process("--model", "nowhere", "--store", str(tmp_path), "--port", str(port))
    assert second.wait_for("cannot listen")["error"].startswith(f"cannot listen on 127.0.0.1:{port}")
    assert second.end() == 1
    third = Process("--model", str(tmp_path / "nowhere"), "--store", str(tmp_path), "--port", "0")
    assert "nowhere" in third.wait_for("cannot load")["error"]
    assert third.end() == 1


def test_help_names_every_setting_with_its_default() -> None:
    told = subprocess.run([*SERVER, "--help"], capture_output=True, text=True, check=True).stdout
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')}" in told
    assert "(default: 50051)" in " ".join(told.split())


def test_opening_the_ports_does_not_wait_for_torch() -> None:
    code = "import sys, unsee_server.__main__; sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "model: got nothing"),
        (["--model", "x", "--port", "99999"], "port: got '99999'"),
        (["--model", "x", "--max-queue", "many"], "max_queue: got 'many'"),
        (["--model", "x", "--dtype", "int8"], "dtype: got 'int8'"),
        (["--model", "x", "--host", "0.0.0.0"], "host: got 0.0.0.0"),  # noqa: S104
        (["--model", "x", "--tls-cert", "x.pem"], "tls_cert and tls_key: got one of them"),
        (["--model", "x", "--tls-cert", "x.pem", "--tls-key", "x.key"], "tls_cert: got x.pem, allowed a file"),
        (["--model", "x", "--tokens-file", "nowhere.json"], "tokens_file: nowhere.json: No such file"),
        (["--model", "x", "--bogus"], "unrecognized arguments: --bogus"),
    ],
)
def test_a_setting_that_is_not_allowed_is_said_and_exits_with_two(
    flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        read_settings(flags)
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_a_setting_comes_from_flag_or_environment_and_the_flag_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNSEE_MODEL", "from-environment")
    monkeypatch.setenv("UNSEE_MAX_QUEUE", "3")
    settings, _ = read_settings(["--max-queue", "5"])
    assert (settings.model, settings.max_queue) == ("from-environment", 5)


def test_all_limits_are_settings_with_the_same_defaults() -> None:
    assert Settings(model="x").limits == Limits()


@pytest.mark.parametrize(
    ("host", "is_allowed"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("::", False)]
)
def test_without_auth_only_this_machine_is_listened_to(host: str, is_allowed: bool) -> None:
    if is_allowed:
        assert Settings(model="x", host=host).host == host
    else:
        with pytest.raises(ValueError, match="insecure_no_auth"):
            Settings(model="x", host=host)
        assert Settings(model="x", host=host, insecure_no_auth=True).host == host
