"""What an audit is to bring back: the request's concept, or the adapter's; checked against the model."""

from unsee_core.answers import Manifest
from unsee_core.audit.job import AuditJob
from unsee_core.audit.target import filled
from unsee_core.errors import InvalidRequestError
from unsee_core.job import Concept
from unsee_core.pipeline import Pipeline
from unsee_core.pseudo_words import is_placeholder


def audited_concept(job: AuditJob, manifest: Manifest, pipeline: Pipeline) -> Concept:
    """Return the concept that an audit is about.

    Raises:
        InvalidRequestError: the request names none, and the adapter does not say one alone in words; or its name is too
            long for the prompts and the adversarial tokens.
    """
    concept = job.concept or _of_adapter(manifest)
    room = pipeline.max_tokens - pipeline.tokenizer.num_special_tokens_to_add()
    longest = max(filled(concept.kind, concept.name), key=len)
    tokens = len(pipeline.tokenizer.tokenize(longest)) + job.budget.prompt_tokens
    if tokens > room:
        message = f"got {tokens} tokens in {longest!r} and the adversarial ones, allowed {room}"
        raise InvalidRequestError.of("concept.name", message)
    return concept


def _of_adapter(manifest: Manifest) -> Concept:
    known = [concept for concept in manifest.erased if concept.name and not is_placeholder(concept.name)]
    if len(known) != 1:
        what = f"{manifest.name!r} says {len(known)} that have a name"
        raise InvalidRequestError.of("concept", f"got none, allowed one with a name: {what}")
    return known[0]
