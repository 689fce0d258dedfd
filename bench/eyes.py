"""What a judge sees in a picture: the project's own judges, or a CLIP model where real weights are drawn with."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from transformers import CLIPModel, CLIPTokenizerFast
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from bench import judges
from bench.drawing import Images
from bench.seeing import SIDE
from training.world import LOOKS, OBJECTS, with_article

_BATCH = 64


@dataclass(frozen=True)
class Sight:
    """What is seen in a picture, whatever it was asked for.

    Attributes:
        object: the likeliest object, where there is one.
        look: the likeliest look.
        together: the objects that are seen where there are two.
    """

    object: str
    look: str
    together: tuple[str, ...]


class Judge(Protocol):
    """Looks at pictures.

    Attributes:
        side: width and height of the pictures that it takes.
        digest: of its weights.
    """

    side: int
    digest: str

    def see(self, images: Images) -> list[Sight]:
        """Return what each of ``(n, side, side, 3)`` pictures shows."""
        ...


class OwnJudge:
    """The classifiers that were trained on rendered pictures; of two objects one is left, one right, or alone."""

    def __init__(self, path: Path = judges.WEIGHTS) -> None:
        """Load the weights that ship with the project, or others of their shape."""
        self.side, self.digest = SIDE, _digest(path)
        self._judges = judges.load(path)

    @torch.no_grad()
    def see(self, images: Images) -> list[Sight]:
        """Return what each of ``(n, 64, 64, 3)`` pictures shows."""
        objects, looks = self._judges.objects(images).names, self._judges.looks(images).names
        left, right = self._judges.pairs(images)
        together = zip(left.names, right.names, objects, strict=True)
        return [Sight(*seen) for seen in zip(objects, looks, together, strict=True)]


class ClipJudge:
    """A CLIPModel that classifies without training: the nearest of the objects' and the looks' captions.

    Args:
        folder: of a CLIPModel with its tokenizer, as transformers saves them; normalises colours as OpenAI's do.
    """

    def __init__(self, folder: Path) -> None:
        self._model = CLIPModel.from_pretrained(folder, local_files_only=True).eval()
        self._tokenizer = CLIPTokenizerFast.from_pretrained(folder, local_files_only=True)
        self.side = int(self._model.config.vision_config.image_size)
        self.digest = _digest(folder / "model.safetensors")
        captions = [f"a photo of {with_article(name)}" for name in OBJECTS]
        styles = ["a picture" if look == "plain" else f"a picture in {look} style" for look in LOOKS]
        self._objects, self._looks = self._texts(captions), self._texts(styles)

    @torch.no_grad()
    def see(self, images: Images) -> list[Sight]:
        """Return what each of ``(n, side, side, 3)`` pictures shows; of two objects the two likeliest."""
        return [sight for start in range(0, len(images), _BATCH) for sight in self._see(images[start : start + _BATCH])]

    def _see(self, images: Images) -> list[Sight]:
        pixels = (torch.from_numpy(images) / 255 - torch.tensor(OPENAI_CLIP_MEAN)) / torch.tensor(OPENAI_CLIP_STD)
        vision = self._model.vision_model(pixel_values=pixels.permute(0, 3, 1, 2)).pooler_output
        features = self._model.visual_projection(vision)
        objects = (features @ self._objects.T).topk(2).indices.tolist()
        looks = (features @ self._looks.T).argmax(1).tolist()
        return [
            Sight(OBJECTS[first], LOOKS[look], (OBJECTS[first], OBJECTS[second]))
            for (first, second), look in zip(objects, looks, strict=True)
        ]

    @torch.no_grad()
    def _texts(self, captions: Sequence[str]) -> torch.Tensor:
        tokens = self._tokenizer(captions, padding=True, return_tensors="pt")
        text = self._model.text_model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).pooler_output
        features = self._model.text_projection(text)
        normal: torch.Tensor = features / features.norm(dim=1, keepdim=True)
        return normal


def _digest(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
