"""What an erasure did: cheap figures, computed for every one of them and stored with it."""

from collections.abc import Generator, Sequence

from unsee_core.answers import Drift, EraseProgress, Report
from unsee_core.changed_encoder import ChangedEncoder
from unsee_core.concept_figures import concept_figures
from unsee_core.drift import Kept, drift_of
from unsee_core.image_check import image_losses
from unsee_core.lora import LoraFactors
from unsee_core.methods.base import EraseContext
from unsee_core.metric import cross_attention_metric
from unsee_core.neighbours import MustStay, asked_of, names_of, others_by_distance, stand_in_of
from unsee_core.pseudo_words import is_placeholder

COSTS_OTHERS = 0.3  # drift of one prompt in twenty, from which on pictures of others were lost: docs/methods.md
_STEPS = 3


def make_report(
    context: EraseContext, factors: LoraFactors, stored: Sequence[str] = ()
) -> Generator[EraseProgress, None, Report]:
    """Compute an erasure's figures, yielding after every step, and return them.

    Drift is how far a prompt's embedding moved as a share of its distance to the empty prompt's, in what the
    cross-attention sees. The empty prompt's own drift is relative to the retain prompts' median distance.

    Args:
        context: what the method worked with.
        factors: what it made.
        stored: names of the concepts of stored adapters.

    Returns:
        The report, with ``phase_seconds`` empty: who runs the phases knows them.
    """
    job = context.job
    encoder = ChangedEncoder(context, factors)
    metric, same = cross_attention_metric(context.pipeline.unet), names_of(context)

    # 1. The concept.
    concept = concept_figures(context, encoder, metric, stand_in_of(context), with_spellings=True)
    yield EraseProgress("report", 1, _STEPS)

    # 2. What must stay.
    stay = MustStay(others_by_distance(context, same), asked_of(job.retain_prompts, stored, same))
    kept = Kept(context.pipeline, encoder, metric, stay)
    yield EraseProgress("report", 2, _STEPS)

    # 3. The images.
    losses = image_losses(context, encoder, same) if context.images else None
    yield EraseProgress("report", 3, _STEPS)
    return Report(
        concept_drift=drift_of(concept.drifts),
        retain_drift=kept.drift,
        empty_drift=kept.empty_drift,
        image_loss_before=losses.before if losses else None,
        image_loss_after=losses.after if losses else None,
        phase_seconds={},
        erase_ratio=concept.erase_ratio,
        worst_erase_ratio=concept.worst_erase_ratio,
        spelling_ratios=concept.spelling_ratios,
        worst_neighbours=kept.worst,
        reference_image_loss=losses.reference if losses else None,
        warnings=(*_unnamed(context), *_moves_others(kept.drift), *(losses.warnings if losses else ())),
    )


def _moves_others(drift: Drift) -> tuple[str, ...]:
    """Return what there is to say where what must stay moves far."""
    if drift.p95 <= COSTS_OTHERS:
        return ()
    return (
        f"One in twenty prompts that must stay moves by {drift.p95:.2f} of its way to the empty prompt, or more; from "
        f"{COSTS_OTHERS} on pictures of other things suffer. See worst_neighbours; a synonym may be a common word.",
    )


def _unnamed(context: EraseContext) -> tuple[str, ...]:
    """Return what there is to say where images alone said what is erased."""
    if not context.words:
        return ()
    name = context.job.concept.name
    if is_placeholder(name):
        return (
            "No name was given, and the images show nothing that the model's vocabulary clearly names: prompts that "
            "call it by its name may still draw it. Give the name.",
        )
    return (
        f"No name was given; the images are taken for {name!r}, and that is erased. Give the name, if it is wrong; "
        "a gate lets prompts pass that call it otherwise.",
    )
