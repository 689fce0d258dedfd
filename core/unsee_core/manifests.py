"""Manifests as JSON, and which of them a list asks for."""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, TypeVar

from unsee_core.answers import BaseModel, Drift, Integrity, KeptImage, Manifest, NamedDrift, Report
from unsee_core.audit.answers import AuditReport, AuditRow, Outcome
from unsee_core.audit.job import AuditBudget
from unsee_core.checks import check_adapter_ref, check_labels, check_text
from unsee_core.errors import CorruptedError, InvalidRequestError
from unsee_core.job import Concept

SCHEMA = 1
MAX_PAGE_SIZE, DEFAULT_PAGE_SIZE = 1000, 100
T = TypeVar("T")


@dataclass(frozen=True)
class AdapterQuery:
    """Which adapters to list; conditions are combined with "and", empty ones admit all.

    Attributes:
        page_size: 0 stands for 100; above 1000 for 1000.
        page_token: ``next_page_token`` of the page before, asked with the same conditions.
        concept: name or synonym, compared without case.
        created_after: stored at or after; with a time zone.
        created_before: stored before; with a time zone.
    """

    page_size: int = DEFAULT_PAGE_SIZE
    page_token: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    concept: str = ""
    method: str = ""
    created_after: datetime | None = None
    created_before: datetime | None = None

    def __post_init__(self) -> None:
        if self.page_size < 0:
            raise InvalidRequestError.of("page_size", f"got {self.page_size}, allowed 0-{MAX_PAGE_SIZE}")
        check_labels(self.labels)
        check_text("concept", self.concept, shortest=0, longest=200)
        check_text("method", self.method, shortest=0, longest=64)
        for name, value in (("created_after", self.created_after), ("created_before", self.created_before)):
            if value is not None and value.tzinfo is None:
                raise InvalidRequestError.of(name, f"got {value}, allowed times with a zone")
        _ = self.after

    def admits(self, manifest: Manifest) -> bool:
        """Return whether the manifest meets all conditions."""
        words = {word.casefold() for concept in manifest.erased for word in concept.words}
        return (
            self.labels.items() <= manifest.labels.items()
            and (not self.concept or self.concept.casefold() in words)
            and (not self.method or self.method == manifest.method)
            and (self.created_after is None or manifest.create_time >= self.created_after)
            and (self.created_before is None or manifest.create_time < self.created_before)
        )

    @property
    def after(self) -> str:
        """Name that the page begins behind; "" for the first page."""
        if not self.page_token:
            return ""
        try:
            conditions, name = base64.urlsafe_b64decode(self.page_token.encode()).decode().split(":")
        except ValueError as error:
            raise self._bad_token("which no page ended with") from error
        if conditions != self._conditions():
            raise self._bad_token("of a list with other conditions")
        return name

    def token_behind(self, name: str) -> str:
        """Return the token of the page that begins behind ``name``."""
        return base64.urlsafe_b64encode(f"{self._conditions()}:{name}".encode()).decode()

    def _bad_token(self, why: str) -> InvalidRequestError:
        allowed = "the next_page_token of the page before, with the same conditions"
        return InvalidRequestError.of("page_token", f"got {self.page_token[:80]!r}, {why}; allowed {allowed}")

    def _conditions(self) -> str:
        times = [time and time.timestamp() for time in (self.created_after, self.created_before)]
        facts = [sorted(self.labels.items()), self.concept, self.method, times]
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class AdapterPage:
    """Manifests by name, and the token of the next page; empty at the end."""

    manifests: tuple[Manifest, ...]
    next_page_token: str


def manifest_to_json(manifest: Manifest) -> bytes:
    """Return the manifest as it is stored."""
    content = {"schema": SCHEMA, **asdict(manifest)}
    return json.dumps(content, sort_keys=True, indent=1, default=_time_as_text).encode()


def _time_as_text(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is no JSON")


def manifest_from_json(name: str, text: bytes) -> Manifest:
    """Return the manifest of ``name`` that was stored as ``text``; fields of later versions are passed over.

    Raises:
        CorruptedError: it cannot be read, or is that of another name.
    """
    try:
        content = json.loads(text)
        concept, report = content["concept"], content["report"]
        known: dict[str, Any] = _known(Manifest, content) | {
            "concept": concept and _concept(concept),
            "concepts": tuple(map(_concept, content.get("concepts", ()))),
            "report": report and _report(report),
            "audits": tuple(map(_audit, content.get("audits", ()))),
            "images": tuple(KeptImage(**_known(KeptImage, one)) for one in content.get("images", ())),
            "settings": {str(key): str(value) for key, value in content.get("settings", {}).items()},
            "base_model": BaseModel(**_known(BaseModel, content["base_model"])),
            "create_time": datetime.fromisoformat(content["create_time"]).astimezone(UTC),
        }
        check_adapter_ref("digest", content["digest"])
        if content["name"] != name:
            raise ValueError(f"it is the manifest of {content['name']!r}")
        return Manifest(**known)
    except (ValueError, KeyError, TypeError, AttributeError, InvalidRequestError) as error:
        raise CorruptedError(f"adapter: the manifest of {name!r} cannot be read: {error!r}") from error


def _concept(content: Mapping[str, Any]) -> Concept:
    return Concept(content["name"], tuple(content["synonyms"]), content["kind"])


def _report(content: Mapping[str, Any]) -> Report:
    drifts = {name: Drift(**_known(Drift, content[name])) for name in ("concept_drift", "retain_drift")}
    worst = [NamedDrift(**_known(NamedDrift, one)) for one in content.get("worst_neighbours", ())]
    tuples = {"worst_neighbours": tuple(worst), "warnings": tuple(content.get("warnings", ()))}
    integrity = content.get("integrity")
    drawn = {"integrity": integrity and Integrity(**_known(Integrity, integrity))}
    return Report(**(_known(Report, content) | drifts | tuples | drawn))


def _audit(content: Mapping[str, Any]) -> AuditReport:
    budget = _known(AuditBudget, content["budget"])
    if "inversion_tokens" in budget:
        budget["inversion_tokens"] = tuple(budget["inversion_tokens"])
    parts = {
        "concept": _concept(content["concept"]),
        "budget": AuditBudget(**budget),
        "rows": tuple(map(_audit_row, content["rows"])),
        "create_time": datetime.fromisoformat(content["create_time"]).astimezone(UTC),
    }
    return AuditReport(**(_known(AuditReport, content) | parts))


def _audit_row(content: Mapping[str, Any]) -> AuditRow:
    sides = {side: Outcome(**_known(Outcome, content[side])) for side in ("unedited", "adapter", "control")}
    return AuditRow(**(_known(AuditRow, content) | sides))


def _known(kind: type[Any], content: Mapping[str, Any]) -> dict[str, Any]:
    """Return those items of ``content`` that are fields of the dataclass ``kind``."""
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in content.items() if name in names}
