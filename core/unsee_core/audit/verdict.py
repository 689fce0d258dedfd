"""Does a picture show the concept? The model's own answer, and how near pictures are to given ones.

The model is a classifier of its own latents: with ``L(p)`` its squared error on a picture's noised latents under the
*frozen* encoder's embedding of p,

    score = mean over timesteps of (L("") - L(concept)) / L("")

above 0 where the concept explains the picture better than nothing does. A picture shows the concept from half of the
mean score of those that do: the unedited model's own, or the given ones, whichever score lower, as given pictures may
look other than the model's own. On the embedded model, concept "cat", three timesteps from 0.35 to 0.6: 16 cats score
0.28 and more, the client's cats 0.12, 44 pictures of eleven other objects below 0, a fox among them.

Source: Your Diffusion Model is Secretly a Zero-Shot Classifier, arXiv:2303.16203; there classes are compared with each
other. The threshold is ours.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from unsee_core.audit.answers import AuditProgress, Side
from unsee_core.audit.target import AttackedEncoder, filled
from unsee_core.denoise import decode_image
from unsee_core.image_loss import ImageLoss
from unsee_core.images import to_pixels
from unsee_core.job import Concept
from unsee_core.pipeline import Pipeline

NOISED_AT = (0.3, 0.5)
LEAST_THRESHOLD = 0.01
Judge = Callable[[Sequence[Image.Image]], Sequence[bool]]


@dataclass(frozen=True)
class Seen:
    """What was seen in pictures: a score and a distance for each, and the pictures themselves."""

    images: tuple[Image.Image, ...]
    scores: Tensor
    distances: Tensor


class Eye:
    """Scores pictures of one concept.

    Args:
        pipeline: the resident model; read only.
        frozen: the encoder without any change.
        concept: what is looked for.
        references: ``(n, C, h, w)`` latents of pictures that show it.
        max_batch: rows of one U-Net call.
        seed: of the noise, which is the same for every picture.

    Attributes:
        reference_score: mean score of the references.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        frozen: AttackedEncoder,
        concept: Concept,
        references: Tensor,
        *,
        max_batch: int,
        seed: int,
    ) -> None:
        self._pipeline, self._max_batch = pipeline, max_batch
        self._image_loss = ImageLoss(pipeline)
        self._embeddings = frozen.encode(["", filled(concept.kind, concept.name)[0]])
        shape = (len(NOISED_AT), *references.shape[1:])
        self._noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        self._timesteps = (torch.tensor(NOISED_AT) * self._image_loss.num_timesteps).long()
        self._references = self._features([decode_image(pipeline, one[None]) for one in references])
        self.reference_score = float(self._scores(references).mean())

    def look(self, latents: Tensor, attack: str, side: Side) -> Generator[AuditProgress, None, Seen]:
        """Look at pictures' latents, ``(n, C, h, w)``, yielding after every few, and return what was seen."""
        count, size = len(latents), max(1, self._max_batch // (2 * len(NOISED_AT)))
        images: list[Image.Image] = []
        scores, distances = [], []
        for start in range(0, count, size):
            part = latents[start : start + size]
            scores.append(self._scores(part))
            decoded = [decode_image(self._pipeline, one[None]) for one in part]
            distances.append((1 - self._features(decoded) @ self._references.T).amin(1))
            images += decoded
            yield AuditProgress(attack, side, "judge", len(images), count)
        return Seen(tuple(images), torch.cat(scores), torch.cat(distances))

    @torch.no_grad()
    def _scores(self, latents: Tensor) -> Tensor:
        """Return ``(n,)`` scores, on the CPU."""
        rows, times = len(latents), len(NOISED_AT)
        noise, timesteps = self._noise.repeat(2 * rows, 1, 1, 1), self._timesteps.repeat(2 * rows)
        repeated = latents.to(self._pipeline.device).repeat_interleave(times, 0).repeat(2, 1, 1, 1)
        embeddings = self._embeddings.repeat_interleave(rows * times, 0)
        empty, concept = self._image_loss(repeated, noise, timesteps, embeddings).view(2, rows, times)
        scores: Tensor = ((empty - concept) / empty).mean(1)
        return scores.cpu()

    @torch.no_grad()
    def _features(self, images: Sequence[Image.Image]) -> Tensor:
        """Return what the VAE's encoder sees before it compresses, averaged over places: ``(n, c)`` of length 1."""
        vae = self._pipeline.vae
        hidden = vae.encoder.conv_in(to_pixels(images, self._pipeline.default_size).to(vae.device, vae.dtype))
        for block in vae.encoder.down_blocks:
            hidden = block(hidden)
        hidden = vae.encoder.mid_block(hidden)
        features: Tensor = F.normalize(hidden.float().mean((2, 3)), dim=1)
        return features.cpu()


def threshold_of(own: float, given: float) -> float:
    """Return the score from which a picture shows the concept.

    Args:
        own: mean score of the unedited model's own pictures of it.
        given: mean score of the given ones; not above 0: the model does not know them for what they are.
    """
    lowest = min(own, given) if given > 0 else own
    return max(lowest / 2, LEAST_THRESHOLD)
