"""The erasing methods by name, and the checks that need method and model."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from unsee_core.errors import InvalidRequestError
from unsee_core.job import Concept, EraseJob, OptionValue
from unsee_core.methods import ablation, closed_form, few_shot_lora, reward, sdd, surgical
from unsee_core.methods.base import COMMON_OPTIONS, EraseContext, Erasure, Method, MethodOption, Settings
from unsee_core.naming import Naming
from unsee_core.pipeline import Pipeline
from unsee_core.prompts import forget_prompts, held_out_prompts

__all__ = ["DEFAULT_METHOD", "METHODS", "EraseContext", "Erasure", "Method", "MethodOption", "Settings", "check_job"]

_ALL = (few_shot_lora, closed_form, ablation, sdd, surgical, reward)
METHODS: Mapping[str, Method] = {module.METHOD.name: module.METHOD for module in _ALL}
DEFAULT_METHOD = "closed_form"


def check_job(job: EraseJob, pipeline: Pipeline) -> Settings:
    """Return the job's settings with the method's defaults filled in, after checking it against method and model.

    Raises:
        InvalidRequestError: the method is unknown; the job sets what it does not read, or lacks what it needs;
            ``layers`` exceeds the encoder; a prompt with the concept would be cut off; a retain prompt asks for it;
            the anchor names it.
    """
    name = job.method or DEFAULT_METHOD
    method = METHODS.get(name)
    if method is None:
        raise InvalidRequestError.of("method", f"got {name[:80]!r}, allowed {', '.join(METHODS)}")
    if method.needs_images and not job.images:
        raise InvalidRequestError.of("images", f"got 0, allowed 1-16: {method.name} learns from images")
    if job.anchor is not None and not method.uses_anchor:
        raise InvalidRequestError.of("anchor", f"got {job.anchor!r}, allowed nothing: {method.name} has no use for one")
    if job.adapters_in_force and not method.uses_adapters:
        allowed = f"allowed 0: {method.name} has no use for any"
        raise InvalidRequestError.of("adapters_in_force", f"got {len(job.adapters_in_force)}, {allowed}")
    settings = _layers_of(_resolve(job, method), job)
    _check_images_for(settings, job)
    _check_nothing_in_its_place(settings, job)
    _check_strict(settings, job)
    layers = settings.options.get("layers", 1)
    if layers > pipeline.encoder_layers:
        raise InvalidRequestError.of(f"{method.name}.layers", f"got {layers}, allowed 1-{pipeline.encoder_layers}")
    _check_anchor(job, pipeline)
    if job.concept.name:
        _check_words(job, pipeline)
        _check_retain_prompts(job)
    return settings


def _resolve(job: EraseJob, method: Method) -> Settings:
    common = {name: value for name in COMMON_OPTIONS if (value := getattr(job, name)) is not None}
    asked: dict[str, OptionValue] = common | dict(job.options)
    options = {option.name: option for option in method.options}
    for name, value in asked.items():
        path = name if name in common else f"{method.name}.{name}"
        if name not in options:
            raise InvalidRequestError.of(path, f"got {value}, allowed nothing: {method.name} does not read it")
        options[name].check(path, value)
        if options[name].refused_with_images and job.images:
            raise InvalidRequestError.of(path, f"got {value}, allowed nothing: the images are used, and none are drawn")
    values = {name: asked.get(name, option.default) for name, option in options.items()}
    strength = values.get("strength", 1.0)
    return Settings(
        method=method.name,
        strength=None if strength is None else float(strength),
        rank=int(values.get("rank") or 0),
        steps=int(values.get("steps") or 0),
        options={name: value for name, value in values.items() if name not in COMMON_OPTIONS and value is not None},
    )


def _check_images_for(settings: Settings, job: EraseJob) -> None:
    """Refuse options that learn from images where there are none."""
    for name in ("image_words", "harden"):
        if settings.options.get(name) and not job.images:
            allowed = f"1-16 with {settings.method}.{name} above 0"
            raise InvalidRequestError.of("images", f"got 0, allowed {allowed}")


def _check_nothing_in_its_place(settings: Settings, job: EraseJob) -> None:
    """Refuse to lead beyond an anchor, which is what prompts shall become."""
    if job.anchor and settings.options.get("beyond"):
        raise InvalidRequestError.of("anchor", f"got {job.anchor!r}, allowed none with {settings.method}.beyond")


def _layers_of(settings: Settings, job: EraseJob) -> Settings:
    """Return the settings with fewer layers where ``strict`` is asked for and the job does not say how many."""
    if not settings.options.get("strict"):
        return settings
    layers = job.options.get("layers", closed_form.STRICT_LAYERS)
    return replace(settings, options={**settings.options, "layers": layers})


def _check_strict(settings: Settings, job: EraseJob) -> None:
    """Refuse to forget what a style is applied to, which stands before its name; and two ways to lead at once."""
    if not settings.options.get("strict"):
        return
    if job.concept.kind == "style":
        raise InvalidRequestError.of(
            f"{settings.method}.strict",
            "got true, allowed false for a style: what it is applied to stands before its name",
        )
    if settings.options.get("beyond"):
        raise InvalidRequestError.of(
            f"{settings.method}.strict", f"got true, allowed false with {settings.method}.beyond"
        )


def _check_anchor(job: EraseJob, pipeline: Pipeline) -> None:
    names = frozenset(word.lower() for word in job.concept.words if word)
    if job.anchor and names and (said := Naming(names, pipeline.vocabulary).first_in(job.anchor)):
        raise InvalidRequestError.of("anchor", f"got {job.anchor!r}, allowed words without {said!r}, which is erased")


def _check_words(job: EraseJob, pipeline: Pipeline) -> None:
    tokenizer, most = pipeline.tokenizer, pipeline.max_tokens
    ends = tokenizer.num_special_tokens_to_add()
    for field, word in _words(job.concept):
        concept = Concept(word, kind=job.concept.kind)
        for prompt in (*forget_prompts(concept), *held_out_prompts(concept)):
            tokens = len(tokenizer.tokenize(prompt)) + ends
            if tokens > most:
                raise InvalidRequestError.of(field, f"got {tokens} tokens in the prompt {prompt!r}, allowed {most}")


def _words(concept: Concept) -> Iterator[tuple[str, str]]:
    yield "concept.name", concept.name
    yield from ((f"concept.synonyms[{i}]", word) for i, word in enumerate(concept.synonyms))


def _check_retain_prompts(job: EraseJob) -> None:
    forget = {" ".join(prompt.lower().split()) for prompt in forget_prompts(job.concept)}
    for i, prompt in enumerate(job.retain_prompts):
        if " ".join(prompt.lower().split()) in forget:
            allowed = "prompts that do not ask for the concept"
            raise InvalidRequestError.of(f"retain_prompts[{i}]", f"got {prompt!r}, allowed {allowed}")
