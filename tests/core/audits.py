"""A small audit on whatever model, and what it yields."""

from dataclasses import replace

import torch

from unsee_core.audit.answers import AuditReport, AuditStep
from unsee_core.audit.job import AuditBudget, AuditJob
from unsee_core.audit.run import AuditContext, audit
from unsee_core.audit.target import AttackedEncoder, Target
from unsee_core.job import Concept
from unsee_core.lora import LoraFactors, LoraPair
from unsee_core.pipeline import Pipeline

SMALL = AuditBudget(
    inversion_tokens=(1, 2),
    inversion_steps=3,
    inversion_batch=2,
    prompt_tokens=2,
    prompt_steps=3,
    noise_steps=2,
    restarts=2,
    pictures=2,
    drawing_steps=4,
)
CAT = Concept("cat", ("kitten",))


def no_change(pipeline: Pipeline) -> LoraFactors:
    """Factors whose change is zero."""
    width, inner = pipeline.encoder_width, pipeline.text_encoder.config.intermediate_size
    path = f"text_model.encoder.layers.{pipeline.encoder_layers - 1}.mlp.fc1"
    return LoraFactors({path: LoraPair(torch.ones(2, width), torch.zeros(inner, 2))})


def context_of(pipeline: Pipeline, factors: LoraFactors, **changes: object) -> AuditContext:
    """An audit of the concept "cat" without given pictures; ``changes`` are the job's or the context's."""
    of_context = {name: changes.pop(name) for name in ("images", "judge", "judged_by", "concept") if name in changes}
    job = AuditJob("attacked", **{"budget": SMALL, "seed": 3, "guidance_scale": 4.0} | changes)
    plain = AuditContext(pipeline, job, "attacked", f"sha256:{'0' * 64}", factors, CAT)
    return replace(plain, **of_context)


def finish(context: AuditContext) -> tuple[AuditReport, list[AuditStep]]:
    """Run an audit to its end."""
    steps, events = audit(context), []
    while True:
        try:
            events.append(next(steps))
        except StopIteration as end:
            return end.value, events


def target_of(pipeline: Pipeline, *, concept: Concept = CAT, budget: AuditBudget = SMALL, **changes: object) -> Target:
    """The unedited side, aimed at random latents."""
    latents = torch.randn(2, 4, *(2 * (pipeline.default_size // pipeline.vae_scale_factor,)), generator=seeded(5))
    plain = Target(pipeline, "unedited", AttackedEncoder(pipeline), concept, latents, latents, budget, 16, 7)
    return replace(plain, **changes)


def seeded(seed: int) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)
