"""The adapters of the store as one resident model sees them: resolved, checked against its base, kept in memory."""

import dataclasses
import hashlib
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Literal

from unsee_core import adapter
from unsee_core.adapter import AdapterMetadata, LoraFactors
from unsee_core.answers import KeptImage, Manifest, Report, ReportImage, ResolvedAdapter
from unsee_core.audit.answers import AuditReport
from unsee_core.checks import check_adapter_name, check_adapter_ref, check_labels
from unsee_core.conditioning import AppliedAdapter
from unsee_core.errors import AlreadyExistsError, NotFoundError
from unsee_core.job import AdapterRef, AnchoredConcept, Concept
from unsee_core.manifests import MAX_PAGE_SIZE
from unsee_core.pipeline import Pipeline
from unsee_core.store import AdapterPage, AdapterQuery, AdapterStore

KEPT_AUDITS = 8
Format = Literal["diffusers", "peft", "kohya"]


class AdapterLibrary:
    """Reads and writes adapters for one model; safe between threads, never waits for the device.

    Args:
        pipeline: the resident model; read for its digests and shapes.
        store: where adapters last.
        max_adapter_bytes: largest import, in bytes.
        on_load: is called for every adapter that is read into memory.
        kept: how many adapters' factors stay in memory, least recently used ones leave first.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        store: AdapterStore,
        *,
        max_adapter_bytes: int,
        on_load: Callable[[], None] | None = None,
        kept: int = 64,
    ) -> None:
        self._pipeline = pipeline
        self._store = store
        self._max_adapter_bytes = max_adapter_bytes
        self._on_load = on_load
        self._kept = kept
        self._factors: OrderedDict[str, tuple[LoraFactors, bool]] = OrderedDict()
        self._lock = threading.Lock()

    def manifest(self, ref: str) -> Manifest:
        """Return the adapter's manifest by name or digest, with ``base_mismatch`` as it is for this model.

        Raises:
            InvalidRequestError: ``ref`` is neither a name nor a digest.
            NotFoundError: there is no such adapter.
        """
        check_adapter_ref("adapter", ref)
        return self._seen_from_here(self._store.get(ref))

    def list(self, query: AdapterQuery) -> AdapterPage:
        """Return a page of manifests by name."""
        page = self._store.list(query)
        return dataclasses.replace(page, manifests=tuple(self._seen_from_here(m) for m in page.manifests))

    def concept_names(self) -> tuple[str, ...]:
        """Return the names of the concepts of the first thousand stored adapters."""
        page = self._store.list(AdapterQuery(page_size=MAX_PAGE_SIZE))
        return tuple(concept.name for manifest in page.manifests for concept in manifest.erased)

    def erased_by(self, ref: str) -> tuple[str, tuple[AnchoredConcept, ...]]:
        """Return an adapter's digest and the concepts that it erases; none where it does not say.

        Raises:
            NotFoundError: there is no such adapter.
            CorruptedError: the stored bytes differ from their digest.
        """
        digest, metadata = self.metadata(ref)
        return digest, metadata.erased if metadata else ()

    def metadata(self, ref: str) -> tuple[str, AdapterMetadata | None]:
        """Return an adapter's digest and metadata; None where another program wrote it. Errors as of ``erased_by``."""
        manifest, data = self._store.open(ref)
        return manifest.digest, adapter.from_bytes(data)[1]

    def check_name_is_free(self, name: str) -> None:
        """Raise AlreadyExistsError if an adapter has this name."""
        self._store.check_name_is_free(name)

    def delete(self, name: str) -> None:
        """Delete an adapter by name; work that already uses it ends undisturbed.

        Raises:
            InvalidRequestError: ``name`` cannot name an adapter.
            NotFoundError: there is none.
        """
        check_adapter_name("name", name)
        self._store.delete(name)

    def export(self, ref: str, layout: Format) -> tuple[Manifest, bytes]:
        """Return the adapter's manifest and its bytes in the asked layout.

        Raises:
            NotFoundError: there is no such adapter.
            ExportUnsupportedError: the layout cannot hold it.
        """
        check_adapter_ref("adapter", ref)
        manifest, data = self._store.open(ref)
        return self._seen_from_here(manifest), adapter.export(data, layout)

    def import_adapter(
        self,
        data: bytes,
        *,
        name: str | None = None,
        replace: bool = False,
        labels: Mapping[str, str] | None = None,
        concept: Concept | None = None,
    ) -> Manifest:
        """Store an adapter that was made elsewhere, in any layout that ``adapter.from_bytes`` reads.

        Without a name, one whose bytes are stored already under whatever name is answered with the stored one.

        Raises:
            AdapterFormatError: the bytes are no usable adapter.
            BaseMismatchError: it belongs to a model with other shapes or another tokenizer.
            AlreadyExistsError: the name is taken and ``replace`` is false.
        """
        check_labels(labels or {})
        if name is not None:
            check_adapter_name("header.name", name)
        factors, metadata = adapter.from_bytes(data, max_bytes=self._max_adapter_bytes)
        adapter.check_base(factors, metadata, self._pipeline)
        metadata = metadata or self._unknown_origin(factors)
        if not metadata.erased and concept is not None:
            metadata = dataclasses.replace(metadata, concept=concept)
        if name is None:
            with suppress(NotFoundError):
                return self.manifest(adapter.digest(adapter.to_bytes(factors, metadata)))
        return self.add(factors, metadata, name=name, replace=replace, labels=labels or {})

    def add(
        self,
        factors: LoraFactors,
        metadata: AdapterMetadata,
        *,
        name: str | None,
        replace: bool,
        labels: Mapping[str, str],
        report: Report | None = None,
        images: Sequence[ReportImage] = (),
    ) -> Manifest:
        """Store an adapter; without a name, under a slug of its concept and eight digits of its digest.

        An unnamed adapter whose bytes are stored already is answered with the stored one, as it is. ``images`` are the
        report's pictures, if they are to be kept.

        Raises:
            AlreadyExistsError: the name is taken and ``replace`` is false.
        """
        data = adapter.to_bytes(factors, metadata)
        manifest = Manifest(
            name=name or _slug(metadata, adapter.digest(data)),
            digest=adapter.digest(data),
            size_bytes=len(data),
            concept=metadata.concept,
            method=metadata.method,
            rank=metadata.rank,
            strength=metadata.strength,
            steps=metadata.steps,
            seed=metadata.seed,
            labels=dict(labels),
            create_time=datetime.now(UTC),
            base_model=metadata.base_model,
            has_final_norm=factors.final_norm is not None,
            report=report,
            concepts=metadata.concepts,
            settings=dict(metadata.settings),
            images=tuple(
                KeptImage(image.prompt, image.seed, image.with_adapter, image.of_concept, _image_digest(image))
                for image in images
            ),
        )
        files = {_image_digest(image): image.png for image in images}
        try:
            stored = self._store.put(manifest.name, data, manifest, replace=replace, images=files)
        except AlreadyExistsError:
            stored = self._store.get(manifest.name)
            if name is not None or stored.digest != manifest.digest:
                raise
        return self._seen_from_here(stored)

    def load(self, ref: AdapterRef) -> tuple[AppliedAdapter, ResolvedAdapter]:
        """Return the adapter ready to apply, and what it was resolved to.

        Raises:
            NotFoundError: there is no such adapter.
            BaseMismatchError: it belongs to a model with other shapes or another tokenizer.
            CorruptedError: the stored bytes differ from their digest.
        """
        manifest = self._store.get(ref.adapter)
        loaded = self._in_memory(manifest.digest)
        if loaded is None:
            manifest, data = self._store.open(ref.adapter)
            loaded = self._read(manifest.digest, data)
        factors, mismatch = loaded
        applied = AppliedAdapter(digest=manifest.digest, factors=factors, weight=ref.weight)
        return applied, ResolvedAdapter(manifest.name, manifest.digest, ref.weight, mismatch, ref.schedule)

    def keep_audit(self, report: AuditReport) -> None:
        """Keep a report in its adapter's manifest, with those before it; the oldest leave.

        Raises:
            NotFoundError: the adapter is no longer there, or was replaced.
        """

        def with_report(manifest: Manifest) -> Manifest:
            return dataclasses.replace(manifest, audits=(*manifest.audits, report)[-KEPT_AUDITS:])

        self._store.amend(report.adapter, report.digest, with_report)

    def report_image(self, kept: KeptImage) -> ReportImage:
        """Return a picture that was kept with an adapter.

        Raises:
            NotFoundError: it left with its adapter.
            CorruptedError: the stored bytes differ from their digest.
        """
        png = self._store.read_image(kept.digest)
        return ReportImage(kept.prompt, kept.seed, kept.with_adapter, kept.of_concept, png)

    def _in_memory(self, digest: str) -> tuple[LoraFactors, bool] | None:
        with self._lock:
            if digest in self._factors:
                self._factors.move_to_end(digest)
            return self._factors.get(digest)

    def _read(self, digest: str, data: bytes) -> tuple[LoraFactors, bool]:
        factors, metadata = adapter.from_bytes(data)
        loaded = factors, adapter.check_base(factors, metadata, self._pipeline)
        if self._on_load:
            self._on_load()
        with self._lock:
            self._factors[digest] = loaded
            while len(self._factors) > self._kept:
                self._factors.popitem(last=False)
        return loaded

    def _seen_from_here(self, manifest: Manifest) -> Manifest:
        made_on = manifest.base_model.text_encoder_digest
        return dataclasses.replace(manifest, base_mismatch=made_on != self._pipeline.digests.text_encoder)

    def _unknown_origin(self, factors: LoraFactors) -> AdapterMetadata:
        """Return metadata that claim nothing: no method, and a base that matches no model."""
        base = dataclasses.replace(self._pipeline.base_model, name="", text_encoder_digest="", unet_digest="")
        return AdapterMetadata(
            concept=None,
            method="",
            strength=1.0,
            rank=factors.rank,
            steps=0,
            seed=0,
            settings={},
            base_model=base,
            versions={},
        )


def _image_digest(image: ReportImage) -> str:
    return f"sha256:{hashlib.sha256(image.png).hexdigest()}"


def _slug(metadata: AdapterMetadata, digest: str) -> str:
    name = metadata.concept.name if metadata.concept else "composed" if metadata.concepts else ""
    words = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:48].strip("-")
    return f"{words or 'adapter'}-{digest.removeprefix('sha256:')[:8]}"
