"""An adapter as a person or a script reads it."""

from dataclasses import asdict
from typing import Any

from unsee.bound import Adapter
from unsee.terminal import out, print_json, print_rows


def facts(adapter: Adapter) -> dict[str, Any]:
    """Return what is known of an adapter, for JSON."""
    return {name: value for name, value in adapter.__dict__.items() if name != "_client"}


def concepts_of(adapter: Adapter) -> str:
    """Return the names of what an adapter erases."""
    return ", ".join(concept.name for concept in adapter.concepts) or adapter.concept.name


def show_adapter(adapter: Adapter, as_json: bool) -> None:
    """Print an adapter as JSON, or as rows a person reads."""
    if as_json:
        print_json(facts(adapter))
        return
    rows = facts(adapter)
    report = rows.pop("report")
    rows.pop("concepts")
    print_rows({**rows, "concept": concepts_of(adapter), "base_model": adapter.base_model.name})
    if report is not None:
        out.print("report")
        print_rows({f"  {name}": value for name, value in asdict(report).items()})
