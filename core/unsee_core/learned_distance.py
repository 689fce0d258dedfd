"""LPIPS, the distance of pictures learned from people's judgments, where its weights are on the machine.

With ``f_l`` what AlexNet's layer l sees, of length 1 at every place, and ``w_l`` the weight of each of its channels:

    d(x, y) = sum over l of the mean over places of  sum_c w_lc (f_lc(x) - f_lc(y))^2

Both files lie in torch's hub folder, and nothing here fetches them: AlexNet's as torchvision publishes it, and the
channels' weights as the paper's authors do.

Source: The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, arXiv:1801.03924, version 0.1.
"""

import logging
import pickle
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BACKBONE, CHANNELS = "alexnet-owt-7be5be79.pth", "lpips-v0.1-alex.pth"
_MEAN, _DEVIATION = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of ImageNet's pixels in [-1, 1]
_SMALLEST = 64  # pixels; the distance was learned on patches of this size, and AlexNet takes none of half of it
logger = logging.getLogger(__name__)


def lpips_distances(first: Tensor, second: Tensor) -> Tensor | None:
    """Return the LPIPS of pictures ``(n, 3, h, w)`` in [-1, 1], ``(n,)`` float32 on the CPU; None without its weights.

    Small pictures are enlarged to 64 pixels first.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    paths = folder / BACKBONE, folder / CHANNELS
    distance = _loaded(*paths) if all(path.is_file() for path in paths) else None
    if distance is None:
        return None
    sides = (_large_enough(side.float().cpu()).split(1) for side in (first, second))
    return torch.cat([distance(*pair) for pair in zip(*sides, strict=True)])


class _Lpips(nn.Module):
    """The distance; its parameters are named as in the two files."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        for i, width in enumerate((64, 192, 384, 256, 256)):
            self.add_module(f"lin{i}", _Channels(width))

    @torch.no_grad()
    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the distances of ``(n, 3, h, w)`` pictures, ``(n,)``."""
        total = torch.zeros(len(first))
        for i, (x, y) in enumerate(zip(self._seen(first), self._seen(second), strict=True)):
            weights = self.get_parameter(f"lin{i}.model.1.weight")
            total += F.conv2d((x - y).square(), weights).mean((1, 2, 3))
        return total

    def _seen(self, pictures: Tensor) -> Iterator[Tensor]:
        mean, deviation = (torch.tensor(values)[:, None, None] for values in (_MEAN, _DEVIATION))
        hidden = (pictures - mean) / deviation
        for part in self.features:
            hidden = part(hidden)
            if isinstance(part, nn.ReLU):
                yield F.normalize(hidden, eps=1e-10)


class _Channels(nn.Module):
    """One layer's channels' weights, where the published file has them: behind a dropout."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Identity(), nn.Conv2d(width, 1, 1, bias=False))


@cache
def _loaded(backbone: Path, channels: Path) -> _Lpips | None:
    """Return the distance, loaded once for two files; None where they cannot be used."""
    distance = _Lpips()
    try:
        both = [torch.load(path, map_location="cpu", weights_only=True) for path in (backbone, channels)]
        merged = {**both[0], **both[1]}
        distance.load_state_dict({name: merged[name] for name in distance.state_dict()})
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        logger.warning("%s and %s cannot be used, and LPIPS is left out of reports: %s", backbone, channels, error)
        return None
    return distance.eval()


def _large_enough(pictures: Tensor) -> Tensor:
    scale = _SMALLEST / min(pictures.shape[-2:])
    return pictures if scale <= 1 else F.interpolate(pictures, scale_factor=scale, mode="bilinear", antialias=True)
