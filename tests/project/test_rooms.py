"""Who may import whom, and what a client must do without."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("unsee", "unsee_core", "unsee_server", "training", "bench", "tests", "examples")
# Each package's folder, and all of ours that it may import beside itself.
ALLOWED = {
    "client/unsee": (),
    "core/unsee_core": (),
    "server/unsee_server": ("unsee.v1", "unsee_core"),
}
ONLY_OF_THE_SERVER = [
    "diffusers",
    "fsspec",
    "grpc_health",
    "grpc_reflection",
    "numpy",
    "peft",
    "prometheus_client",
    "pydantic_settings",
    "safetensors",
    "structlog",
    "torch",
    "transformers",
    "unsee_core",
    "unsee_server",
]
IMPORT_WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[2:]:
            raise ModuleNotFoundError(f"{name} is not installed")

sys.meta_path.insert(0, Missing())
__import__(sys.argv[1])
"""


def imports(file: Path) -> Iterator[str]:
    """Yield the full name of every module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno} is a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


@pytest.mark.parametrize("folder", ALLOWED)
def test_a_package_imports_nothing_of_ours_but_what_its_arrows_allow(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    allowed = (folder.rpartition("/")[2], *ALLOWED[folder])
    wrong = [
        f"{file.relative_to(ROOT)} imports {module}"
        for file in files
        for module in imports(file)
        if any(is_within(module, ours) for ours in OURS) and not any(is_within(module, room) for room in allowed)
    ]
    assert wrong == []


def test_the_core_knows_no_grpc() -> None:
    files = (ROOT / "core/unsee_core").rglob("*.py")
    assert [file.name for file in files if any(is_within(module, "grpc") for module in imports(file))] == []


@pytest.mark.parametrize("module", ["unsee", "unsee.cli", "unsee.v1.service_pb2_grpc"])
def test_the_client_is_imported_without_what_only_the_server_needs(module: str) -> None:
    command = [sys.executable, "-c", IMPORT_WITHOUT, module, *ONLY_OF_THE_SERVER]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_a_module_that_needs_the_extra_is_told_apart_by_that_import() -> None:
    command = [sys.executable, "-c", IMPORT_WITHOUT, "unsee_core.pipeline", "torch"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "torch is not installed" in result.stderr
