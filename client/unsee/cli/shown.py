"""An adapter as a person or a script reads it."""

from collections.abc import Iterator, Mapping
from typing import Any

from unsee.adapters import Drift, Integrity, Report
from unsee.bound import Adapter
from unsee.terminal import notes, out, print_json, print_rows


def facts(adapter: Adapter) -> dict[str, Any]:
    """Return what is known of an adapter, for JSON."""
    return {name: value for name, value in adapter.__dict__.items() if name != "_client"}


def concepts_of(adapter: Adapter) -> str:
    """Return the names of what an adapter erases."""
    return ", ".join(concept.name for concept in adapter.concepts) or adapter.concept.name


def show_adapter(adapter: Adapter, as_json: bool) -> None:
    """Print an adapter as JSON, or as rows a person reads, with the report's warnings on standard error."""
    if as_json:
        print_json(facts(adapter))
        return
    rows = facts(adapter)
    report = rows.pop("report")
    rows.pop("concepts")
    texts = {"labels": _told(adapter.labels), "settings": _told(adapter.settings)}
    print_rows({**rows, **texts, "concept": concepts_of(adapter), "base_model": adapter.base_model.name})
    if report is not None:
        out.print("report")
        print_rows({f"  {name}": value for name, value in _figures(report)})
        for warning in report.warnings:
            notes.print(f"warning: {warning}", markup=False, highlight=False, soft_wrap=True)


def _figures(report: Report) -> Iterator[tuple[str, str]]:
    """Yield what the report measured, by its field; not what it has no figure of."""
    for name, value in vars(report).items():
        if isinstance(value, float):
            yield name, f"{value:.3f}"
        elif isinstance(value, Drift):
            yield name, f"p50 {value.p50:.3f}, p95 {value.p95:.3f}, max {value.max:.3f} ({value.worst_prompt})"
        elif isinstance(value, Mapping) and value:
            yield name, _told({key: f"{number:.3f}" for key, number in value.items()})
    if report.integrity is not None:
        yield "integrity", _integrity_of(report.integrity)
    if report.worst_neighbours:
        yield "worst_neighbours", ", ".join(f"{one.name} {one.drift:.3f}" for one in report.worst_neighbours)


def _told(texts: Mapping[str, str]) -> str:
    """Return a map, whose order on the wire is none, as text."""
    return ", ".join(f"{key} {text}" for key, text in sorted(texts.items())) or "none"


def _integrity_of(integrity: Integrity) -> str:
    kept = f"distance {integrity.mean_distance:.3f}, at most {integrity.max_distance:.3f} ({integrity.worst_prompt})"
    likeness = f"MS-SSIM {integrity.mean_ms_ssim:.3f}, at least {integrity.min_ms_ssim:.3f}"
    concept = f"the concept's {integrity.concept_distance:.3f} and {integrity.concept_ms_ssim:.3f}"
    learned = (integrity.mean_lpips, integrity.max_lpips, integrity.concept_lpips)
    lpips = "LPIPS {:.3f}, at most {:.3f}, the concept's {:.3f}; ".format(*learned) if None not in learned else ""
    return f"{kept}; {likeness}; {concept}; {lpips}of {integrity.prompts} prompts"
