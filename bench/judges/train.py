"""Trains the judges on rendered pictures. Run: ``python -m bench.judges.train`` (needs the icons of ``training``)."""

import argparse
import json
import random
import sys
from functools import partial
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from bench.judges import WEIGHTS, halves, new_classifiers, to_input
from training import checkpoint, icons
from training.pictures import draw
from training.world import BACKGROUNDS, LOOKS, OBJECTS, Scene

SINGLES, PAIRS, HELD_OUT = 20_000, 12_000, 2_000
BATCH = 64
HELD_OUT_FIGURES = Path(__file__).parent / "held_out.json"


def rendered(index: int, icon_pictures: icons.Pictures, *, count: int, seed: int) -> tuple[NDArray[np.uint8], Scene]:
    """Return picture ``index`` of ``count`` objects, every look and background equally often."""
    rng = random.Random(f"judges/{seed}/{count}/{index}")
    look = rng.choice(LOOKS)
    background = rng.choice(list(BACKGROUNDS)) if look in ("plain", "pixel art") and rng.random() < 0.5 else "white"
    scene = Scene(tuple(rng.sample(OBJECTS, count)), look, background)
    return draw(scene, icon_pictures, rng), scene


def disturbed(pictures: Tensor, generator: torch.Generator, *, moves: int) -> Tensor:
    """Return ``(B, 3, 64, 64)`` pictures moved by up to ``moves`` <= 3 px, softened, noised and recoloured a little."""
    shift = torch.randint(-moves, moves + 1, (2,), generator=generator).tolist()
    pictures = functional.pad(pictures, (3, 3, 3, 3), mode="replicate")
    pictures = pictures[..., 3 + shift[0] : 67 + shift[0], 3 + shift[1] : 67 + shift[1]]
    soft = functional.avg_pool2d(functional.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, 1)
    amount = torch.rand(len(pictures), 1, 1, 1, generator=generator)
    pictures = pictures + amount * (soft - pictures)
    gain = 1 + 0.1 * torch.randn(len(pictures), 3, 1, 1, generator=generator)
    offset = 0.05 * torch.randn(len(pictures), 3, 1, 1, generator=generator)
    strength = 0.2 * torch.rand(len(pictures), 1, 1, 1, generator=generator)
    noise = torch.randn(pictures.shape, generator=generator)
    return ((pictures * gain + offset) + strength * noise).clamp(-1, 1)


def train(classifier: nn.Module, inputs: Tensor, labels: Tensor, *, steps: int, seed: int, moves: int) -> None:
    """Train a classifier in place on ``(N, 3, 64, 64)`` float16 pictures and ``(N,)`` labels; see ``disturbed``."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=2e-3, weight_decay=0.05)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = checkpoint.learning_rate(step, steps=steps, peak=2e-3, warmup=50)
        index = torch.randint(len(inputs), (BATCH,), generator=generator)
        batch = disturbed(inputs[index].float(), generator, moves=moves).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = classifier(batch)
        loss = functional.cross_entropy(logits.float(), labels[index], label_smoothing=0.02)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 99:
            sys.stdout.write(f"{step + 1}/{steps} loss {loss.item():.3f}\n")
            sys.stdout.flush()


@torch.no_grad()
def accuracy(classifier: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """Return the share of pictures whose likeliest class is the label."""
    classifier.eval()
    right = [classifier(chunk.float()).argmax(1) for chunk in inputs.split(200)]
    return (torch.cat(right) == labels).float().mean().item()


def problems(seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Return for each judge its rendered pictures ``(N, 3, 64, 64)`` float16 and labels ``(N,)``, freshly drawn."""
    drawing = partial(rendered, icon_pictures=icons.load(), seed=seed)
    with Pool() as pool:
        one = pool.map(partial(drawing, count=1), range(SINGLES), 500)
        two = pool.map(partial(drawing, count=2), range(PAIRS), 500)
    singles, pairs = (to_input(np.stack([picture for picture, _ in made])).half() for made in (one, two))
    looks = torch.tensor([LOOKS.index(scene.look) for _, scene in (*one, *two)])
    names = torch.tensor([OBJECTS.index(scene.objects[0]) for _, scene in one])
    sides = torch.tensor([[OBJECTS.index(name) for name in scene.objects] for _, scene in two])
    sides_first = halves(pairs.float()).half().view(2, len(pairs), 3, 64, 64).transpose(0, 1)
    return {
        "objects": (singles, names),
        "looks": (torch.cat([singles, pairs]), looks),
        "halves": (sides_first.flatten(0, 1), sides.flatten()),
    }


def main() -> None:
    """Train the named judges and write their weights, and the held-out accuracies beside them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=["objects", "looks", "halves"])
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    weights = load_file(WEIGHTS) if WEIGHTS.exists() else {}
    figures: dict[str, float] = json.loads(HELD_OUT_FIGURES.read_text()) if HELD_OUT_FIGURES.exists() else {}
    made = problems(args.seed)
    for name in args.names:
        torch.manual_seed(args.seed)  # the layers' initial values and dropout
        classifier = new_classifiers()[name].to(memory_format=torch.channels_last)
        inputs, labels = made[name]
        moves = 0 if name == "looks" else 3  # pixel art is told by a grid that stands still
        train(classifier, inputs[HELD_OUT:], labels[HELD_OUT:], steps=args.steps, seed=args.seed, moves=moves)
        figures[name] = accuracy(classifier, inputs[:HELD_OUT], labels[:HELD_OUT])
        sys.stdout.write(f"{name}: held-out {figures[name]:.4f}\n")
        weights |= {f"{name}.{key}": tensor.half().contiguous() for key, tensor in classifier.state_dict().items()}
    save_file(weights, WEIGHTS)
    HELD_OUT_FIGURES.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
