"""The project's own files agree with one another."""

import re
import subprocess
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def normal(name: str) -> str:
    """Return a distribution's name as the package index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def lines(file: str) -> list[str]:
    """Return a file's lines without comments and empty ones."""
    text = (ROOT / file).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def pins() -> dict[str, str]:
    """Return the exact version of every package in constraints.txt."""
    parts = [line.partition("==") for line in lines("constraints.txt")]
    assert all(pin and name for name, _, pin in parts)
    return {normal(name): pin for name, _, pin in parts}


def test_every_dependency_is_pinned() -> None:
    wanted = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["server"], *lines("requirements-dev.txt")]
    names = {normal(re.split(r"[<>=\[]", line)[0]) for line in wanted}
    assert names - pins().keys() == set()


@pytest.mark.parametrize("name", ["diffusers", "grpcio", "peft", "protobuf", "torch", "transformers"])
def test_tests_run_with_the_pinned_versions(name: str) -> None:
    assert version(name).partition("+")[0] == pins()[name]


def test_the_oldest_versions_are_those_that_the_project_admits() -> None:
    oldest = dict(line.split("==") for line in lines("constraints-oldest.txt"))
    admitted = dict(re.split(r">=|,", line)[:2] for line in PROJECT["optional-dependencies"]["server"])
    for name in ("diffusers", "peft", "transformers"):
        assert oldest[name].startswith(admitted[name] + ".")


def test_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[0].split())
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^  make (\S+)", listed, re.MULTILINE)) == targets


def test_ci_calls_make_and_nothing_else() -> None:
    commands = [line for line in lines(".ci/run") if not line.startswith(("set ", "cd ", "export "))]
    assert commands == ["time make test", "time make check"]


def test_the_readme_begins_with_the_two_commands() -> None:
    readme = lines("README.md")
    assert [line.split("#")[0].strip() for line in readme if line.startswith("    make")][:2] == [
        "make demo",
        "make test",
    ]


def test_the_changelog_tells_of_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert PROJECT["version"] in changelog


def test_the_image_and_the_manifests_name_the_same_ports_and_user() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    deployment = (ROOT / "deploy/base/deployment.yaml").read_text(encoding="utf-8")
    ports = dict(re.findall(r"UNSEE_(?:(HEALTH|METRICS)_)?PORT=(\d+)", dockerfile))
    exposed = re.findall(r"^EXPOSE (.*)$", dockerfile, re.MULTILINE)[0].split()
    assert sorted(ports.values()) == sorted(exposed)
    assert sorted(re.findall(r"containerPort: (\d+)", deployment)) == sorted(exposed)
    assert set(re.findall(r"grpc:\n +port: (\d+)", deployment)) == {ports["HEALTH"]}
    (user,) = re.findall(r"^USER (\d+):", dockerfile, re.MULTILINE)
    assert re.findall(r"runAsUser: (\d+)", deployment) == [user]
