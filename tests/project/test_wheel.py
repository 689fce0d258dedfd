"""What is in the distribution, and what is not."""

import re
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"unsee": "client", "unsee_core": "core", "unsee_server": "server"}


def build(target: str, source: Path, folder: Path) -> Path:
    """Build a wheel or an sdist of ``source`` into ``folder`` with the project's own backend, and return its path."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(folder)]
    result = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return sorted(archive.namelist())


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(archive.read(name))


def test_a_wheel_holds_the_three_packages_and_nothing_else(wheel: Path) -> None:
    tops = {name.partition("/")[0] for name in names(wheel)}
    assert tops == {*PACKAGES, "unsee-0.1.0.dist-info"}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_wheel_holds_every_file_of_a_package(wheel: Path, package: str) -> None:
    folder = ROOT / PACKAGES[package]
    files = [file for file in (folder / package).rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    expected = {file.relative_to(folder).as_posix() for file in files}
    assert f"{package}/py.typed" in expected
    assert {name for name in names(wheel) if name.startswith(f"{package}/")} == expected


def test_a_wheel_holds_the_configurations_of_stable_diffusion_2(wheel: Path) -> None:
    files = {name.rpartition("/")[2] for name in names(wheel) if name.startswith("unsee_core/sd2/")}
    assert {"bpe_simple_vocab_16e6.txt.gz", "unet.json", "vae.json", "text_encoder.json"} <= files


def test_the_client_asks_for_no_torch_and_the_server_does(wheel: Path) -> None:
    required = [str(line) for line in metadata(wheel).get_all("Requires-Dist", [])]
    base = {re.split(r"[<>]", line)[0] for line in required if "extra ==" not in line}
    server = {re.split(r"[<>]", line)[0] for line in required if "extra == 'server'" in line}
    assert base == {"googleapis-common-protos", "grpcio", "pillow", "protobuf", "rich", "typer"}
    assert {"diffusers", "peft", "torch", "transformers"} <= server


def test_a_wheel_made_of_the_sdist_is_the_wheel_made_of_the_repository(wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(build("sdist", ROOT, tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    assert names(build("wheel", source, tmp_path / "wheel")) == names(wheel)
