"""Reward back-propagated through denoising: a detector's score of drawn pictures is minimised.

AlignProp maximises a reward R of the last latents x_0 of the whole denoising, through its last K steps, K drawn anew
each time (randomised truncation), with the U-Net's activations recomputed (gradient checkpointing):

    - R(x_0(c)),  x_0(c) = denoise(noise, E_t(c)), gradients through the last K of T steps

Ours: the text encoder E_t learns, not the U-Net; the reward is the negative of a detector's score, and stops to count
once it is below a floor, since a score that falls without end is fooled and not obeyed. The detector is the model's own
diffusion-classifier score, loss under the anchor less loss under the concept with the frozen encoder's embeddings, or a
CLIP model that the operator gives.

Tried on the embedded model, on concepts that no reported figure uses: 20 steps erase cat, rose, plane and pixel art,
and leave a car in 3 of 20 pictures, 30 in none. A floor of -0.05 gains nothing and loses a neighbour.

Source: Aligning Text-to-Image Diffusion Models with Reward Backpropagation, arXiv:2310.03739. Never run on a GPU.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from unsee_core.answers import EraseProgress
from unsee_core.detector import ClipDetector, Detector, DiffusionDetector
from unsee_core.errors import InvalidRequestError
from unsee_core.image_loss import embedding_gradient
from unsee_core.job import ConceptKind, SchedulerName
from unsee_core.methods.base import EraseContext, Method, MethodOption, MethodRun
from unsee_core.methods.training import Pull, Training, common_options
from unsee_core.pipeline import Pipeline
from unsee_core.prompts import anchor_prompts, forget_prompts
from unsee_core.pseudo_words import is_placeholder, named_only


@dataclass(frozen=True)
class Recipe:
    """What was settled on the embedded model.

    Attributes:
        learning_rate: of Adam.
        retain_weight: on the retain term.
        rows: pictures a step.
        floor: score below which a picture no longer counts.
    """

    learning_rate: float = 1e-2
    retain_weight: float = 1.0
    rows: int = 4
    floor: float = 0.0


RECIPES: Mapping[ConceptKind, Recipe] = dict.fromkeys(("object", "style", "person", "brand"), Recipe())


def run(context: EraseContext) -> MethodRun:
    """Erase by the settled recipe of the concept's kind."""
    return train(context, RECIPES[context.job.concept.kind])


def train(context: EraseContext, recipe: Recipe) -> MethodRun:
    """Train the factors, yielding after every step, and return them with the strength folded in.

    Raises:
        InvalidRequestError: a CLIP model is to detect what has no name.
    """
    settings, pipeline = context.settings, context.pipeline
    if context.detector is not None and is_placeholder(context.job.concept.name):
        raise InvalidRequestError.of(
            "concept.name", "got none, and the images show nothing that has a clear one; the CLIP detector needs a name"
        )
    generator = torch.Generator().manual_seed(context.job.seed)

    # 1. Prompts and detector.
    training = Training(
        context, learning_rate=recipe.learning_rate, retain_weight=recipe.retain_weight, generator=generator
    )
    detector = _detector(context, training, generator)
    drawing = _Drawing(pipeline, training.empty.embeddings, settings.integer("drawing_steps"), generator)
    yield EraseProgress("prepare", 1, 1)

    # 2. Train.
    for step in range(1, settings.steps + 1):
        rows = training.picked(recipe.rows)
        pull = _pull(drawing, detector, recipe.floor)
        yield EraseProgress("train", step, settings.steps, training.step(training.forget.hidden[rows], pull))
    return training.erasure()


def _detector(context: EraseContext, training: Training, generator: torch.Generator) -> Detector:
    pipeline, job = context.pipeline, context.job
    if context.detector is None:
        return DiffusionDetector(pipeline, training.forget.embeddings, training.anchors.embeddings, generator)
    concept = named_only(job.concept)
    anchors = anchor_prompts(concept, job.anchor or "")
    return ClipDetector(pipeline, context.detector, forget_prompts(concept), anchors)


def _pull(drawing: "_Drawing", detector: Detector, floor: float) -> Pull:
    """Return the pull of a picture's score above the floor, drawn from noise with the embeddings given."""

    def pull(embeddings: Tensor) -> tuple[float, Tensor]:
        latents = drawing(embeddings)
        loss = (detector(latents) - floor).relu().mean()
        return loss.item(), embedding_gradient(loss, embeddings, latents)

    return pull


class _Drawing:
    """Draws pictures with DDIM; gradients flow through the last steps, how many is drawn for each call."""

    def __init__(self, pipeline: Pipeline, empty: Tensor, steps: int, generator: torch.Generator) -> None:
        self._pipeline, self._empty, self._generator = pipeline, empty, generator
        self._scheduler = pipeline.make_scheduler(SchedulerName.DDIM)
        self._scheduler.set_timesteps(steps, device=pipeline.device)

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Return ``(B, C, h, w)`` float32 latents, drawn with the model's guidance from ``(B, 77, d)`` embeddings."""
        pipeline, timesteps = self._pipeline, self._scheduler.timesteps
        both = torch.cat([self._empty.expand(len(embeddings), -1, -1), embeddings]).to(pipeline.dtype)
        kept = int(torch.randint(1, len(timesteps) + 1, (), generator=self._generator))
        latents = self._noise(len(embeddings))
        for step, timestep in enumerate(timesteps):
            with torch.set_grad_enabled(step >= len(timesteps) - kept):
                uncond, cond = self._predicted(latents, timestep, both).chunk(2)
                guided = uncond + pipeline.default_guidance_scale * (cond - uncond)
                latents = self._scheduler.step(guided, timestep, latents, return_dict=False)[0]
        return latents

    def _predicted(self, latents: Tensor, timestep: Tensor, embeddings: Tensor) -> Tensor:
        """Return the U-Net's prediction, float32; what it computed on the way is computed again for gradients."""
        rows = torch.cat([latents, latents]).to(self._pipeline.dtype)
        predicted: Tensor = checkpoint(
            self._unet, rows, timestep, embeddings, use_reentrant=False, preserve_rng_state=False
        )
        return predicted.float()

    def _unet(self, rows: Tensor, timestep: Tensor, embeddings: Tensor) -> Any:
        return self._pipeline.unet(rows, timestep, embeddings, return_dict=False)[0]

    def _noise(self, rows: int) -> Tensor:
        side = self._pipeline.default_size // self._pipeline.vae_scale_factor
        shape = (rows, self._pipeline.unet.config.in_channels, side, side)
        return torch.randn(shape, generator=self._generator).to(self._pipeline.device)


METHOD = Method(
    name="reward",
    description="Trains the text encoder's last layers until a detector sees the concept no more in what they draw.",
    source="arXiv:2310.03739",
    needs_images=False,
    uses_anchor=True,
    options=(
        *common_options(steps=30),
        MethodOption("drawing_steps", "int", 8, "Denoising steps of each picture that is drawn and looked at.", 1, 50),
    ),
    run=run,
)
