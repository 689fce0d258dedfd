"""Captioned training pictures, each a function of (seed, index). Run: ``python -m training.pictures --count 48000``."""

import argparse
import json
import random
from functools import partial
from multiprocessing import Pool

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training import icons
from training.world import BACKGROUNDS, LOOKS, OBJECTS, Scene, caption

SIDE = 64
CAPTIONS_PER_PICTURE = 4
TWO_OBJECT_SHARE = 0.33

Picture = NDArray[np.uint8]


def draw(scene: Scene, icon_pictures: icons.Pictures, rng: random.Random) -> Picture:
    """Return the scene as ``(64, 64, 3)`` RGB, with icon set, size and place drawn from ``rng``.

    Args:
        scene: what to show.
        icon_pictures: ``(objects, sets, 128, 128, 4)`` from ``icons.load``.
        rng: the only source of chance.
    """
    canvas = Image.new("RGBA", (2 * SIDE, 2 * SIDE), (*BACKGROUNDS[scene.background], 255))
    for place, name in enumerate(scene.objects):
        if len(scene.objects) == 1:
            size, left, top = rng.randint(104, 118), SIDE, SIDE
        else:
            size, left, top = rng.randint(60, 63), 32 + 64 * place, SIDE
        slack = (2 * SIDE - size) / 4 if len(scene.objects) == 1 else 1.5
        left, top = (
            left + rng.uniform(-slack, slack),
            top + rng.uniform(-slack, slack) * (3 if len(scene.objects) > 1 else 1),
        )
        icon = Image.fromarray(icon_pictures[OBJECTS.index(name), rng.randrange(icon_pictures.shape[1])])
        corner = (round(left - size / 2), round(top - size / 2))
        layer = Image.new("RGBA", canvas.size)
        layer.paste(icon.resize((size, size), Image.Resampling.LANCZOS), corner)
        canvas.alpha_composite(layer)
    picture = canvas.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
    return in_look(np.asarray(picture), scene.look, cells=16 * len(scene.objects))


def in_look(picture: Picture, look: str, *, cells: int) -> Picture:
    """Return an RGB picture redrawn in a look; ``cells`` is the side of pixel art's grid."""
    if look == "plain":
        return picture
    if look == "pixel art":
        small = Image.fromarray(picture).resize((cells, cells), Image.Resampling.BOX)
        small = small.quantize(12, method=Image.Quantize.MEDIANCUT).convert("RGB")
        return np.asarray(small.resize((SIDE, SIDE), Image.Resampling.NEAREST))
    colours = picture.astype(np.float32)
    if look == "sepia":
        grey = (colours @ np.array([0.299, 0.587, 0.114], np.float32))[..., None] / 255
        return _to_bytes(grey * np.array([225, 190, 140], np.float32) + np.array([25, 18, 12], np.float32))
    across = np.abs(np.diff(colours, axis=1, append=colours[:, -1:])).max(-1)
    down = np.abs(np.diff(colours, axis=0, append=colours[-1:])).max(-1)
    edges = np.clip((across + down) * 1.6 / 255, 0, 1)[..., None]
    if look == "ink sketch":
        return _to_bytes(np.repeat(250 - edges * 242, 3, -1))
    if look == "blueprint":
        return _to_bytes(
            (1 - edges) * np.array([28, 62, 140], np.float32) + edges * np.array([225, 238, 255], np.float32)
        )
    raise ValueError(f"look: {look!r} is not one of {LOOKS}")


def _to_bytes(colours: NDArray[np.float32]) -> Picture:
    return np.clip(colours, 0, 255).astype(np.uint8)


def random_scene(rng: random.Random) -> Scene:
    """Return a scene with the training mix of objects, looks and backgrounds."""
    two = rng.random() < TWO_OBJECT_SHARE
    objects = tuple(rng.sample(OBJECTS, 2)) if two else (rng.choice(OBJECTS),)
    look = "plain" if rng.random() < (0.7 if two else 0.45) else rng.choice(LOOKS[1:])
    coloured = look in ("plain", "pixel art") and rng.random() < 0.35
    background = rng.choice([name for name in BACKGROUNDS if name != "white"]) if coloured else "white"
    return Scene(objects, look, background)


def captioned(index: int, icon_pictures: icons.Pictures, *, seed: int) -> tuple[Picture, Scene, list[str]]:
    """Return picture, scene and captions number ``index`` of the set made with ``seed``."""
    rng = random.Random(f"{seed}/{index}")
    scene = random_scene(rng)
    picture = draw(scene, icon_pictures, rng)
    return picture, scene, [caption(scene, rng) for _ in range(CAPTIONS_PER_PICTURE)]


def main() -> None:
    """Write ``work/pictures.npz`` (pictures and labels) and ``work/captions.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=48_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with Pool() as pool:
        made = pool.map(
            partial(captioned, icon_pictures=icons.load(), seed=args.seed), range(args.count), chunksize=500
        )
    scenes = [scene for _, scene, _ in made]
    objects = [[OBJECTS.index(name) for name in scene.objects] for scene in scenes]
    np.savez(
        icons.WORK / "pictures.npz",
        pictures=np.stack([picture for picture, _, _ in made]),
        objects=np.array([[*row, -1][:2] for row in objects], np.int64),
        looks=np.array([LOOKS.index(scene.look) for scene in scenes], np.int64),
    )
    (icons.WORK / "captions.json").write_text(json.dumps([captions for _, _, captions in made]))


if __name__ == "__main__":
    main()
