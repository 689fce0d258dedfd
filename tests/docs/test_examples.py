"""The examples of README.md and docs/ are run, in order, against a real server on the embedded model.

A ``console`` block's lines after "$ " run in bash; its other lines must match what the command before them printed,
where "..." stands for anything. A ``python`` block is a program of its own. Commands that cannot run here, like those
of a container engine, stand in blocks of another language.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PORTS = ("50051", "50052", "9090")
SERVE = "unsee serve --model models/emoji --store adapters --port 50051"
START_S, COMMAND_S, STOP_S = 300, 600, 60
_BLOCK = re.compile(r"^```(?P<language>python|console|js)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the line that it begins at."""

    language: str
    text: str
    line: int


@dataclass(frozen=True)
class Command:
    """A command of a console block, and the lines that it is said to print."""

    text: str
    prints: tuple[str, ...]


def blocks_of(document: Path) -> list[Block]:
    """Return the document's blocks in order."""
    text = document.read_text(encoding="utf-8")
    found = _BLOCK.finditer(text)
    return [Block(match["language"], match["text"], text.count("\n", 0, match.start()) + 2) for match in found]


def commands_of(block: Block) -> list[Command]:
    """Return a console block's commands; a line that ends in a backslash goes on in the next one."""
    commands: list[Command] = []
    for line in block.text.replace("\\\n", "").splitlines():
        if line.startswith("$ "):
            commands.append(Command(line.removeprefix("$ "), ()))
        elif line:
            assert commands, f"line {block.line}: {line!r} stands before any command"
            commands[-1] = Command(commands[-1].text, (*commands[-1].prints, line))
    return commands


class World:
    """A folder where a reader would be, ports that are free, and the processes that the examples leave running."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = folder
        self.ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        self.servers = ExitStack()
        (folder / "models").mkdir()
        (folder / "models" / "emoji").symlink_to(model)
        for name in ("bench", "protos"):
            (folder / name).symlink_to(ROOT / name)
        names = ("PATH", "HOME", "LANG", "NODE_PATH", "OMP_NUM_THREADS")
        self.environment = {name: os.environ[name] for name in names if name in os.environ} | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "UNSEE_SERVER": f"127.0.0.1:{self.ports['50051']}",
            "HF_HUB_OFFLINE": "1",
        }

    def own(self, text: str) -> str:
        """Return the text with this world's ports in place of the documented ones."""
        return re.sub("|".join(PORTS), lambda match: self.ports[match[0]], text)

    def run(self, block: Block) -> None:
        """Run a block; a command that serves is left running until the world ends."""
        if block.language == "python":
            images = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "bench/images/cat").glob("*.png"))]
            self.call([sys.executable, "-W", "ignore", "-c", f"IMAGES = {images}\n{self.own(block.text)}"], block)
        elif block.language == "js":
            self.call(["node", "-e", self.own(block.text)], block)
        else:
            for command in commands_of(block):
                if command.text.startswith(("unsee serve ", "unsee-server ")):
                    self.servers.enter_context(self.serving(command.text))
                else:
                    printed = self.call(["bash", "-euo", "pipefail", "-c", self.own(command.text)], block)
                    check_printed(command, printed)

    def call(self, arguments: list[str], block: Block) -> str:
        """Return what a command printed; the test fails with all of its output where the command does."""
        done = subprocess.run(
            arguments, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=COMMAND_S
        )
        assert done.returncode == 0, f"line {block.line}: {arguments[-1]}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    @contextmanager
    def serving(self, command: str) -> Iterator[None]:
        """Run a server until the world ends, from the moment that it takes calls."""
        log = self.folder / "server.log"
        with log.open("wb") as output:
            server = subprocess.Popen(
                ["bash", "-c", f"exec {self.own(command)}"],
                cwd=self.folder,
                env=self.environment,
                stdout=output,
                stderr=output,
            )
        try:
            self.wait_until_serving(server, log)
            yield
        finally:
            server.terminate()
            try:
                status = server.wait(timeout=STOP_S)
            finally:
                server.kill()
            assert status == 0, log.read_text()

    def wait_until_serving(self, server: "subprocess.Popen[bytes]", log: Path) -> None:
        deadline = time.monotonic() + START_S
        with grpc.insecure_channel(self.environment["UNSEE_SERVER"]) as channel:
            check = channel.unary_unary(  # the stub's own attribute has no type
                "/grpc.health.v1.Health/Check",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            while server.poll() is None and time.monotonic() < deadline:
                try:
                    reply = check(health_pb2.HealthCheckRequest(), timeout=5, wait_for_ready=True)
                except grpc.RpcError:
                    continue
                if reply.status == health_pb2.HealthCheckResponse.SERVING:
                    return
                time.sleep(0.2)
        pytest.fail(f"the server does not answer:\n{log.read_text()}")


def free_ports(count: int) -> list[str]:
    """Return ports that nobody listens on."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [str(listener.getsockname()[1]) for listener in listeners]


def check_printed(command: Command, printed: str) -> None:
    """Fail unless each documented line was printed."""
    for line in command.prints:
        pattern = ".*".join(re.escape(part) for part in line.split("..."))
        assert any(re.fullmatch(pattern, found.rstrip()) for found in printed.splitlines()), (
            f"{command.text}: {line!r} is documented, and this was printed:\n{printed}"
        )


@pytest.fixture
def world(tmp_path: Path, emoji: Path) -> Iterator[World]:
    """A world of its own for each document."""
    made = World(tmp_path, emoji.resolve())
    with made.servers:
        yield made


def serves_itself(blocks: list[Block]) -> bool:
    """Return whether one of the blocks starts a server."""
    return any(block.language == "console" and "$ unsee serve " in block.text for block in blocks)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_python_and_console_example_runs(document: Path, world: World) -> None:
    blocks = [block for block in blocks_of(document) if block.language != "js"]
    if blocks and not serves_itself(blocks):
        world.servers.enter_context(world.serving(SERVE))
    for block in blocks:
        world.run(block)


def test_the_node_example_draws_a_picture(world: World) -> None:
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    block = next(block for block in blocks_of(ROOT / "README.md") if block.language == "js")
    found = subprocess.run(
        ["node", "-e", "require('@grpc/grpc-js'); require('@grpc/proto-loader')"],
        cwd=world.folder,
        env=world.environment,
        capture_output=True,
    )
    if found.returncode != 0:
        pytest.skip("@grpc/grpc-js and @grpc/proto-loader are not installed where node looks (NODE_PATH)")
    world.servers.enter_context(world.serving(SERVE))
    world.run(block)
    assert (world.folder / "dog-0.png").read_bytes().startswith(b"\x89PNG")


def test_the_readme_has_examples_in_every_language() -> None:
    assert {block.language for block in blocks_of(ROOT / "README.md")} == {"python", "console", "js"}


def test_a_documented_line_that_is_not_printed_is_found() -> None:
    command = Command("ls", ("no-cat...tensors",))
    check_printed(command, "a\nno-cat.safetensors\n")
    with pytest.raises(AssertionError, match="is documented"):
        check_printed(command, "a\n")


def test_commands_and_what_they_print_are_told_apart() -> None:
    block = Block("console", "$ one \\\n    two\nprinted\n$ three\n", 1)
    assert commands_of(block) == [Command("one     two", ("printed",)), Command("three", ())]
