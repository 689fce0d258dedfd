"""The last checks of a job, those that need model, store or limits; what passes can be begun."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from unsee_core.application import applications, filled_guard
from unsee_core.audit.job import AuditJob
from unsee_core.audit.run import AuditContext
from unsee_core.audit.subject import audited_concept
from unsee_core.audit.work import AuditWork
from unsee_core.checks import check_range
from unsee_core.compose import compose_context
from unsee_core.conditioning import Conditioner
from unsee_core.edit_work import ComposeWork, EraseWork
from unsee_core.errors import AlreadyExistsError, InvalidRequestError, NotFoundError
from unsee_core.images import open_image
from unsee_core.job import AdapterRef, ComposeJob, EraseJob, GenerateJob, Limits
from unsee_core.library import AdapterLibrary
from unsee_core.methods import EraseContext, check_job
from unsee_core.methods.base import InForce
from unsee_core.pipeline import Pipeline
from unsee_core.pseudo_words import is_placeholder
from unsee_core.work import GenerateTask, GenerateWork


class Admission:
    """Turns jobs into work that can begin; called from any thread, and touches no device.

    What each method returns is called on the engine's thread, with the time at which the job was accepted.

    Args:
        pipeline: the resident model; read only.
        library: where a job's adapters are looked up.
        default_method: of an erasure that names none.
        detector: folder of a CLIPModel for the method "reward".
    """

    def __init__(
        self,
        pipeline: Pipeline,
        library: AdapterLibrary,
        limits: Limits,
        default_method: str,
        detector: Path | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._library = library
        self._limits = limits
        self._default_method = default_method
        self._detector = detector

    def erase(self, job: EraseJob) -> Callable[[float], EraseWork]:
        """Check an erasure against method, model, limits and store, and decode its pictures.

        Raises:
            InvalidRequestError: a field does not fit the model, the method or the limits.
            NotFoundError: an adapter in force is unknown.
            AlreadyExistsError: the adapter's name is taken.
        """
        check_range("images", len(job.images), 0, self._limits.max_erase_images)
        job = replace(job, method=job.method or self._default_method)
        settings = check_job(job, self._pipeline)
        images = [open_image(data, f"images[{i}]", self._limits) for i, data in enumerate(job.images)]
        if job.adapter_name is not None and not job.replace:
            self._check_is_free(job.adapter_name)
        in_force = tuple(map(self._in_force, job.adapters_in_force))
        _check_once("adapters_in_force", [adapter.digest for adapter in in_force])
        context = EraseContext(self._pipeline, job, tuple(images), settings, detector=self._detector, in_force=in_force)
        return lambda _: EraseWork(self._library, context)

    def compose(self, job: ComposeJob) -> Callable[[float], ComposeWork]:
        """Check a composition against model and store, and look its adapters' concepts up.

        Raises:
            InvalidRequestError: an adapter does not fit, or is named twice; see ``compose_context``.
            NotFoundError: an adapter is unknown.
            AlreadyExistsError: the new adapter's name is taken.
        """
        found = [self._library.erased_by(name) for name in job.adapters]
        _check_once("adapters", [digest for digest, _ in found])
        if job.adapter_name is not None and not job.replace:
            self._check_is_free(job.adapter_name)
        context = compose_context(self._pipeline, job, [concepts for _, concepts in found])
        return lambda _: ComposeWork(self._library, context)

    def audit(self, job: AuditJob) -> Callable[[float], AuditWork]:
        """Check an audit against model, limits and store, decode its pictures, and load its adapter.

        Raises:
            InvalidRequestError: a field does not fit the model or the limits, or it is not known what was erased.
            NotFoundError: the adapter is unknown.
            BaseMismatchError: it belongs to a model with other shapes.
        """
        check_range("images", len(job.images), 0, self._limits.max_erase_images)
        check_range("budget.drawing_steps", job.budget.drawing_steps, 4, self._limits.max_steps)
        manifest = self._library.manifest(job.adapter)
        concept = audited_concept(job, manifest, self._pipeline)
        images = [open_image(data, f"images[{i}]", self._limits) for i, data in enumerate(job.images)]
        applied, resolved = self._library.load(AdapterRef(job.adapter))
        context = AuditContext(
            self._pipeline,
            job,
            resolved.name,
            resolved.digest,
            applied.factors,
            concept,
            tuple(images),
            max_batch=self._limits.max_batch,
        )
        return lambda _: AuditWork(self._library, context)

    def generate(self, job: GenerateJob, conditioner: Conditioner) -> Callable[[float], GenerateWork]:
        """Check a generation against model and limits, and load its adapters.

        Raises:
            InvalidRequestError: a field does not fit the model or the limits.
            NotFoundError: an adapter is unknown.
            BaseMismatchError: an adapter belongs to a model with other shapes.
        """
        job = self._filled_in(job)
        applied = applications(job, self._library)
        job = replace(job, guard=filled_guard(job, applied, self._library))
        task = GenerateTask(job, applied)
        return lambda accepted: GenerateWork(self._pipeline, conditioner, task, accepted=accepted)

    def _filled_in(self, job: GenerateJob) -> GenerateJob:
        """Return the job with the model's defaults, after checking it against model and limits."""
        model, limits = self._pipeline, self._limits
        width, height = job.width or model.default_size, job.height or model.default_size
        check_range("steps", job.steps, 1, limits.max_steps)
        check_range("num_images", job.num_images, 1, limits.max_num_images)
        for name, size in (("width", width), ("height", height)):
            if size % model.size_multiple or not 0 < size <= limits.max_size:
                allowed = f"multiples of {model.size_multiple} up to {limits.max_size}"
                raise InvalidRequestError.of(name, f"got {size}, allowed {allowed}")
        guidance = model.default_guidance_scale if job.guidance_scale is None else job.guidance_scale
        return replace(job, width=width, height=height, guidance_scale=guidance)

    def _in_force(self, ref: str) -> InForce:
        digest, metadata = self._library.metadata(ref)
        applied, _ = self._library.load(AdapterRef(digest))
        erased, replaced = (metadata.erased, metadata.replaced) if metadata else ((), ())
        words = (word for one in erased for word in one.concept.words)
        return InForce(digest, applied.factors, tuple(word for word in words if not is_placeholder(word)), replaced)

    def _check_is_free(self, name: str) -> None:
        try:
            taken = self._library.manifest(name)
        except NotFoundError:
            return
        raise AlreadyExistsError(f"adapter_name: {name!r} is taken by {taken.digest}; set replace to overwrite it")


def _check_once(field: str, digests: Sequence[str]) -> None:
    for i, digest in enumerate(digests):
        if digest in digests[:i]:
            raise InvalidRequestError.of(f"{field}[{i}]", f"got {digest} again, allowed once each")
