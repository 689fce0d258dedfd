"""What composing did: the figures of an erasure's report, over all concepts; and each one's own erase ratio."""

from collections.abc import Generator, Sequence
from collections.abc import Set as AbstractSet

from unsee_core.answers import EraseProgress, Report
from unsee_core.changed_encoder import ChangedEncoder
from unsee_core.compose import ComposeContext
from unsee_core.concept_figures import concept_figures
from unsee_core.drift import Kept, drift_of
from unsee_core.lora import LoraFactors
from unsee_core.metric import cross_attention_metric
from unsee_core.near_words import stand_in
from unsee_core.neighbours import MustStay, asked_of, names_of, others_by_distance


def make_compose_report(
    context: ComposeContext, factors: LoraFactors, stored: Sequence[str] = ()
) -> Generator[EraseProgress, None, Report]:
    """Compute the figures, yielding after every concept and after what must stay, and return them.

    They mean what ``report.make_report`` says; there are none for other spellings, and none for images.

    Args:
        context: what composing worked with.
        factors: what it made.
        stored: names of the concepts of stored adapters.

    Returns:
        The report, with ``phase_seconds`` empty.
    """
    erasures, total = context.erasures, len(context.erasures) + 1
    encoder = ChangedEncoder(erasures[0], factors)
    metric = cross_attention_metric(context.pipeline.unet)

    # 1. Each concept.
    same = frozenset[str]().union(*map(names_of, erasures))
    ratios: dict[str, float] = {}
    drifts: dict[str, float] = {}
    worst: list[float] = []
    for number, erasure in enumerate(erasures, start=1):
        noun, name = stand_in(context.pipeline, erasure.job.concept, same), erasure.job.concept.name
        found = concept_figures(erasure, encoder, metric, noun)
        ratios[name] = max(found.erase_ratio, ratios.get(name, found.erase_ratio))
        worst.append(found.worst_erase_ratio)
        drifts |= found.drifts
        yield EraseProgress("report", number, total)

    # 2. What must stay.
    kept = Kept(context.pipeline, encoder, metric, _must_stay(context, same, stored))
    yield EraseProgress("report", total, total)
    return Report(
        concept_drift=drift_of(drifts),
        retain_drift=kept.drift,
        empty_drift=kept.empty_drift,
        image_loss_before=None,
        image_loss_after=None,
        phase_seconds={},
        erase_ratio=sum(ratios.values()) / len(ratios),
        worst_erase_ratio=max(worst),
        worst_neighbours=kept.worst,
        concept_ratios=ratios,
    )


def _must_stay(context: ComposeContext, same: AbstractSet[str], stored: Sequence[str]) -> MustStay:
    """Return what no concept names; nearest to any of them first."""
    places: dict[int, int] = {}
    for erasure in context.erasures:
        for place, i in enumerate(others_by_distance(erasure, same)):
            places[i] = min(place, places.get(i, place))
    asked = asked_of(context.job.retain_prompts, stored, same)
    if not (places or asked):  # the whole vocabulary is erased
        asked = {prompt: prompt for prompt in (*context.pipeline.vocabulary.scenes, "a picture")}
    return MustStay(tuple(sorted(places, key=lambda i: (places[i], i))), asked)
