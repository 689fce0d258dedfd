"""What docs/ says of settings, calls, errors, metrics and the SDK is what the code has."""

import inspect
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from pydantic.fields import FieldInfo

import unsee
from unsee.v1 import service_pb2
from unsee_core.methods import METHODS
from unsee_server.auth import SCOPES
from unsee_server.errors import STATUS
from unsee_server.metrics import CallMetrics, EngineMetrics
from unsee_server.settings import Settings

ROOT = Path(__file__).parents[2]
API = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
RPCS = [method.name for method in service_pb2.DESCRIPTOR.services_by_name["UnseeService"].methods]


def row_of(name: str, field: FieldInfo) -> str:
    """Return a setting's row in the table of docs/operations.md."""
    if field.is_required():
        default = "required"
    elif field.default is None:
        default = "not set"
    else:
        default = f"`{field.default}`"
    return f"| `--{name.replace('_', '-')}` | {default} | {field.description} |"


def first_cells(text: str, heading: str) -> list[str]:
    """Return what stands in backticks at the start of each row of the table under a heading."""
    section = text.split(f"\n{heading}\n", 1)[1].split("\n#", 1)[0]
    return re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)


def names_of(registry: CollectorRegistry) -> set[str]:
    """Return the metrics' names as Prometheus shows them."""
    return {f"{metric.name}_total" if metric.type == "counter" else metric.name for metric in registry.collect()}


def test_operations_has_a_row_for_each_setting_as_it_is() -> None:
    expected = "\n".join(row_of(name, field) for name, field in Settings.model_fields.items())
    assert expected in OPERATIONS, f"put this table into docs/operations.md:\n{expected}"


def test_operations_has_a_row_for_each_metric() -> None:
    registry = CollectorRegistry()
    CallMetrics(registry)
    EngineMetrics(registry)
    assert set(first_cells(OPERATIONS, "## Metrics")) == names_of(registry) | {"unsee_device_memory_bytes"}


def test_operations_says_what_scope_each_call_needs() -> None:
    section = OPERATIONS.split("\n### Tokens\n", 1)[1].split("\n#", 1)[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", section, re.MULTILINE))
    expected = {rpc: " or ".join(f"`{scope}`" for scope in sorted(SCOPES[rpc])) or "any token" for rpc in RPCS}
    assert rows == expected


def test_api_has_a_row_for_each_call() -> None:
    assert first_cells(API, "## Calls") == RPCS


def test_api_has_a_row_for_each_reason_with_its_status() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \| `([A-Z_]+)` \|", API, re.MULTILINE)
    expected = {(status.reason, status.code.name) for status in STATUS.values()} | {("INTERNAL", "INTERNAL")}
    assert set(rows) == expected
    assert len(rows) == len(expected)


def public_calls(kind: type) -> set[str]:
    """Return the names of a class's public methods."""
    return {name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}


@pytest.mark.parametrize(("prefix", "kind"), [("client", unsee.Client), ("adapter", unsee.Adapter), ("job", unsee.Job)])
def test_api_names_every_public_call_of_the_sdk_and_no_other(prefix: str, kind: type) -> None:
    documented = set(re.findall(rf"`{prefix}\.(\w+)\(", API))
    assert documented == public_calls(kind)


@pytest.mark.parametrize("client", [unsee.Client, unsee.AsyncClient])
def test_both_clients_have_the_same_calls(client: type) -> None:
    assert public_calls(client) == public_calls(unsee.Client)


@pytest.mark.parametrize("document", ["README.md", "docs/methods.md"])
def test_every_method_is_named(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    missing: Iterable[str] = [name for name in METHODS if name not in text]
    assert missing == []


def test_every_link_between_the_documents_leads_somewhere() -> None:
    for document in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        for link, _, heading in re.findall(r"\]\(([^)#:]*)(#([^)]+))?\)", document.read_text(encoding="utf-8")):
            target = document.parent / link if link else document
            assert target.exists(), f"{document.name} links to {link}, which is not there"
            if heading:
                assert heading in headings_of(target), f"{document.name} links to {link}#{heading}, which is not there"


def headings_of(document: Path) -> set[str]:
    """Return a document's headings as links name them."""
    lines = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}
