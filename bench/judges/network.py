"""One small picture classifier, used three times."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Classifier(nn.Module):
    """``(B, 3, 64, 64)`` in [-1, 1] to logits ``(B, classes)``."""

    def __init__(self, classes: int, width: int, *, sees_edges: bool = False) -> None:
        """Build the layers.

        Args:
            classes: number of logits.
            width: channels of the first layer, later doubled twice.
            sees_edges: give the first layer the sizes of steps across and down too; flat cells are hard to learn else.
        """
        super().__init__()
        self.sees_edges = sees_edges
        layers: list[nn.Module] = []
        channels = 5 if sees_edges else 3
        for out, stride in ((width, 2), (2 * width, 2), (2 * width, 1), (4 * width, 2), (4 * width, 2)):
            layers += [nn.Conv2d(channels, out, 3, stride, 1), nn.GroupNorm(8, out), nn.SiLU()]
            channels = out
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.2), nn.Linear(16 * channels, classes))

    def forward(self, pictures: Tensor) -> Tensor:
        """Return logits ``(B, classes)``."""
        if self.sees_edges:
            across = functional.pad(pictures.diff(dim=-1).abs().mean(1, keepdim=True), (0, 1))
            down = functional.pad(pictures.diff(dim=-2).abs().mean(1, keepdim=True), (0, 0, 0, 1))
            pictures = torch.cat([pictures, across, down], dim=1)
        logits: Tensor = self.layers(pictures)
        return logits
