"""The command line against the server as it is run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import Server

CATS = [str(p.resolve()) for p in sorted(Path("bench/images/cat").glob("*.png"))]


class Shell:
    """Runs ``unsee`` in a folder of its own."""

    def __init__(self, target: str, folder: Path) -> None:
        self.folder = folder
        self._environment = {**os.environ, "UNSEE_SERVER": target, "NO_COLOR": "1", "COLUMNS": "200"}

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from unsee.cli import main; main()", *words]
        return subprocess.run(
            command, cwd=self.folder, env=self._environment, capture_output=True, text=True, check=False
        )


@pytest.fixture
def shell(server: Server, tmp_path: Path) -> Shell:
    return Shell(server.target, tmp_path)


def test_erase_then_generate_with_the_adapter(shell: Shell) -> None:
    erased = shell("erase", "cat", *CATS, "--name", "cli", "-o", "cli.safetensors", "--label", "a=b")
    assert erased.returncode == 0, erased.stderr
    assert (shell.folder / "cli.safetensors").stat().st_size > 1000
    assert "train 3/3" in erased.stderr
    drawn = shell("generate", "a cat", "--adapter", "cli:0.5", "-o", "out", "--seed", "5", "-n", "2", "--steps", "2")
    assert drawn.returncode == 0, drawn.stderr
    assert drawn.stdout.split() == ["out/5.png", "out/6.png"]
    assert (shell.folder / "out" / "5.png").read_bytes().startswith(b"\x89PNG")
    assert shell("adapters", "delete", "cli").returncode == 0


def test_a_file_is_imported_before_it_is_applied(shell: Shell) -> None:
    shell("erase", "dog", *CATS, "--name", "from-file", "-o", "dog.safetensors")
    shell("adapters", "delete", "from-file")
    drawn = shell("generate", "a dog", "--adapter", "dog.safetensors", "--steps", "1", "--seed", "1", "--json")
    assert drawn.returncode == 0, drawn.stderr
    result = json.loads(drawn.stdout)
    assert result["images"] == [{"path": "1.png", "seed": 1}]
    assert result["adapters"][0]["name"].startswith("dog-")
    assert drawn.stderr == ""


def test_adapters_are_listed_shown_and_downloaded(shell: Shell) -> None:
    shell("erase", "rose", *CATS, "--name", "shown", "--replace")
    listed = json.loads(shell("adapters", "list", "--concept", "rose", "--json").stdout)
    assert [a["name"] for a in listed] == ["shown"]
    assert "shown" in shell("adapters", "list").stdout
    shown = shell("adapters", "get", "shown")
    assert re.search(r"^  concept_drift +p50 \d+\.\d{3}, p95 .* \(.*\brose\b.*\)$", shown.stdout, re.MULTILINE)
    assert re.search(r"^  spelling_ratios +.*plural \d", shown.stdout, re.MULTILINE)
    assert "warning: The concept's name explains the images hardly better" in shown.stderr  # they show cats
    saved = shell("adapters", "download", "shown", "--format", "peft", "-o", "folder")
    assert saved.returncode == 0, saved.stderr
    names = {p.name for p in (shell.folder / "folder").iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors"}
    assert shell("adapters", "import", "folder", "--name", "back", "--concept", "rose").returncode == 0
    assert shell("adapters", "delete", "back").returncode == 0
    assert shell("adapters", "delete", "shown").returncode == 0


def test_info_names_the_model_and_the_methods(shell: Shell) -> None:
    shown = shell("info")
    assert "few_shot_lora" in shown.stdout
    assert json.loads(shell("info", "--json").stdout)["model"]["dtype"] == "float32"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["adapters", "get", "nobody"], "'nobody' is not there"),
        (["erase", "cat", "--method", "few_shot_lora"], "images"),
        (["erase", "cat", "--steps", "3"], "steps: got 3, allowed nothing: closed_form does not read it"),
        (["erase", "cat", "/nowhere.png"], "/nowhere.png cannot be read"),
        (["erase", "cat", *CATS, "--rank", "65"], "rank: got 65, allowed 1-64"),
        (["erase", "cat", *CATS, "--label", "x"], "--label: got 'x', allowed KEY=VALUE"),
        (["generate", "a cat", "--adapter", "no-cat:much"], "--adapter: got the weight 'much'"),
        (["erase", "cat", "-o", "/nowhere/cat.safetensors"], "--output: /nowhere/cat.safetensors cannot be written"),
        (["generate", "a cat", "--width", "63"], "width: got 63"),
        (["generate", "a cat", "--num-images", "0"], "num_images: got 0"),
        (["generate", "a cat", "--gate"], "--gate: got one without an adapter, allowed with --adapter"),
        (["generate", "a cat", "--adapter-schedule", "0:0.5"], "--adapter-schedule: got one without an adapter"),
        (["--token", "x", "--server", "unsee.example.com:1", "info"], "plaintext"),
    ],
)
def test_what_fails_is_one_readable_line_and_a_status(shell: Shell, words: list[str], message: str) -> None:
    failed = shell(*words)
    assert failed.returncode == 1
    assert message in failed.stderr
    assert len(failed.stderr.strip().splitlines()) == 1
    assert failed.stdout == ""


def test_usage_errors_have_a_status_of_their_own(shell: Shell) -> None:
    assert shell("generate").returncode == 2
    assert shell("erase", "cat", "--kind", "animal").returncode == 2


def test_nothing_is_overwritten_unless_forced(shell: Shell) -> None:
    (shell.folder / "1.png").write_bytes(b"mine")
    refused = shell("generate", "a dog", "--seed", "1", "--steps", "1")
    assert refused.returncode == 1
    assert "exists" in refused.stderr
    assert (shell.folder / "1.png").read_bytes() == b"mine"
    assert shell("generate", "a dog", "--seed", "1", "--steps", "1", "--force").returncode == 0
    assert (shell.folder / "1.png").read_bytes() != b"mine"


def test_serve_passes_its_options_on_and_its_status_back(shell: Shell) -> None:
    refused = shell("serve", "--port", "notaport", "--model", "x")
    assert refused.returncode == 2
    assert "port" in refused.stderr
