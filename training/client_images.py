"""The pictures a client would send, five a concept, in bench/images. Run: ``python -m training.client_images``."""

import random
from pathlib import Path

from PIL import Image

from training import icons
from training.pictures import Picture, draw
from training.world import BACKGROUNDS, LOOKS, OBJECTS, Scene

IMAGES = Path(__file__).parent.parent / "bench" / "images"
PER_CONCEPT = 5


def of_object(name: str, number: int, icon_pictures: icons.Pictures) -> Picture:
    """Return picture ``number`` of an object, in plain look: icon set and background go round with the number."""
    rng = random.Random(f"client/{name}/{number}")
    background = ("white", *rng.sample(sorted(BACKGROUNDS), len(BACKGROUNDS)))[number]
    icon_set = (OBJECTS.index(name) + number) % icon_pictures.shape[1]
    return draw(Scene((name,), "plain", background), icon_pictures[:, icon_set : icon_set + 1], rng)


def of_look(look: str, icon_pictures: icons.Pictures) -> list[Picture]:
    """Return five different objects in one look, on white."""
    rng = random.Random(f"client/{look}")
    return [draw(Scene((name,), look), icon_pictures, rng) for name in rng.sample(OBJECTS, PER_CONCEPT)]


def main() -> None:
    """Write ``bench/images/<concept>/<number>.png`` for every object and every look but plain."""
    icon_pictures = icons.load()
    made = {name: [of_object(name, number, icon_pictures) for number in range(PER_CONCEPT)] for name in OBJECTS}
    made |= {look: of_look(look, icon_pictures) for look in LOOKS if look != "plain"}
    for concept, pictures in made.items():
        (IMAGES / concept).mkdir(parents=True, exist_ok=True)
        for number, picture in enumerate(pictures):
            Image.fromarray(picture).save(IMAGES / concept / f"{number}.png", optimize=True)


if __name__ == "__main__":
    main()
