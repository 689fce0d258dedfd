"""What composing did: the figures of an erasure's report, over all concepts; and each one's own erase ratio."""

from collections.abc import Generator, Sequence

from unsee_core.answers import EraseProgress, Report
from unsee_core.changed_encoder import ChangedEncoder
from unsee_core.compose import ComposeContext
from unsee_core.erase_ratio import EraseRatio
from unsee_core.lora import LoraFactors
from unsee_core.metric import cross_attention_metric, seen_distance
from unsee_core.neighbours import MustStay, asked_of, names_of, others_by_distance
from unsee_core.prompts import held_out_prompts
from unsee_core.report import Kept, drift_of, shares_of


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
    empty, empty_after = encoder([""])

    # 1. Each concept.
    ratios: dict[str, float] = {}
    worst = 0.0
    for number, erasure in enumerate(erasures, start=1):
        ratio, attacked = EraseRatio(erasure, encoder, metric).of_concept()
        name = erasure.job.concept.name
        ratios[name], worst = max(ratio, ratios.get(name, 0.0)), max(attacked, worst)
        yield EraseProgress("report", number, total)
    prompts = [prompt for erasure in erasures for prompt in held_out_prompts(erasure.job.concept)]
    shares, _ = shares_of(metric, *encoder(prompts), empty)

    # 2. What must stay.
    kept = Kept(context.pipeline, encoder, metric, empty, _must_stay(context, stored))
    yield EraseProgress("report", total, total)
    return Report(
        concept_drift=drift_of(shares, prompts),
        retain_drift=kept.drift,
        empty_drift=float(seen_distance(metric, empty_after, empty)) / kept.median_distance,
        image_loss_before=None,
        image_loss_after=None,
        phase_seconds={},
        erase_ratio=sum(ratios.values()) / len(ratios),
        worst_erase_ratio=worst,
        worst_neighbours=kept.worst,
        concept_ratios=ratios,
    )


def _must_stay(context: ComposeContext, stored: Sequence[str]) -> MustStay:
    """Return what no concept names; nearest to any of them first."""
    same = frozenset[str]().union(*map(names_of, context.erasures))
    places: dict[int, int] = {}
    for erasure in context.erasures:
        for place, i in enumerate(others_by_distance(erasure, same)):
            places[i] = min(place, places.get(i, place))
    asked = asked_of(context.job.retain_prompts, stored, same)
    if not (places or asked):  # the whole vocabulary is erased
        asked = {prompt: prompt for prompt in (*context.pipeline.vocabulary.scenes, "a picture")}
    return MustStay(tuple(sorted(places, key=lambda i: (places[i], i))), asked)
