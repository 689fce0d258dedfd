"""Judges of pictures: which object, which look, which two objects.

They were trained on rendered pictures only, never on generated ones, and no erasing method may use them.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from bench.judges.network import Classifier
from training.world import LOOKS, OBJECTS

__all__ = ["Judges", "Verdict", "halves", "load", "new_classifiers", "to_input"]

WEIGHTS = Path(__file__).parent / "judges.safetensors"


@dataclass(frozen=True)
class Verdict:
    """What a judge says about each picture.

    Attributes:
        names: the likeliest class of each picture.
        logits: ``(B, classes)`` float32, in the order of ``OBJECTS`` or ``LOOKS``.
    """

    names: list[str]
    logits: Tensor


def new_classifiers() -> torch.nn.ModuleDict:
    """Return untrained classifiers: "objects", "looks", and "halves" for each half of a two-object picture."""
    return torch.nn.ModuleDict(
        {
            "objects": Classifier(len(OBJECTS), 32),
            "looks": Classifier(len(LOOKS), 16, sees_edges=True),
            "halves": Classifier(len(OBJECTS), 32),
        }
    )


def to_input(images: NDArray[np.uint8]) -> Tensor:
    """Return pictures as ``(B, 3, 64, 64)`` floats in [-1, 1].

    Raises:
        ValueError: images are not ``(B, 64, 64, 3)`` uint8.
    """
    if images.dtype != np.uint8 or images.shape[1:] != (64, 64, 3):
        raise ValueError(f"images: got {images.dtype} {images.shape}, must be uint8 (B, 64, 64, 3)")
    return torch.from_numpy(images.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1


def halves(pictures: Tensor) -> Tensor:
    """Return left and right middle squares of ``(B, 3, 64, 64)``, enlarged: ``(2 B, 3, 64, 64)``, left first."""
    middle = pictures[:, :, 16:48]
    both = torch.cat([middle[..., :32], middle[..., 32:]])
    return functional.interpolate(both, scale_factor=2, mode="bilinear", align_corners=False)


class Judges:
    """The three judges, on the CPU, in float32."""

    def __init__(self, classifiers: torch.nn.ModuleDict) -> None:
        """Take trained classifiers, as ``new_classifiers`` shapes them."""
        self._classifiers = classifiers.eval().requires_grad_(False)

    def objects(self, images: NDArray[np.uint8]) -> Verdict:
        """Return the object that each ``(B, 64, 64, 3)`` picture of one object shows."""
        return _verdict(self._classifiers["objects"](to_input(images)), OBJECTS)

    def looks(self, images: NDArray[np.uint8]) -> Verdict:
        """Return the look of each ``(B, 64, 64, 3)`` picture."""
        return _verdict(self._classifiers["looks"](to_input(images)), LOOKS)

    def pairs(self, images: NDArray[np.uint8]) -> tuple[Verdict, Verdict]:
        """Return the left and the right object of each ``(B, 64, 64, 3)`` picture of two."""
        left, right = self._classifiers["halves"](halves(to_input(images))).chunk(2)
        return _verdict(left, OBJECTS), _verdict(right, OBJECTS)


def _verdict(logits: Tensor, names: tuple[str, ...]) -> Verdict:
    return Verdict([names[index] for index in logits.argmax(1).tolist()], logits)


def load(path: Path = WEIGHTS) -> Judges:
    """Return the judges that ship with the project, or others that were saved the same way.

    Raises:
        FileNotFoundError: no weights there.
    """
    classifiers = new_classifiers()
    classifiers.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    return Judges(classifiers)
