"""Erases a concept on the embedded model and leaves one picture of before and after; see ``make demo``.

Starts the server on a free port with a store of its own, erases CONCEPT from five images, draws the same prompts with
the same seeds before and after, writes ``demo.png``, and stops the server.
"""

import argparse
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import unsee

ROOT = Path(__file__).resolve().parents[1]
PROMPTS = (
    "a {concept}",
    "pixel art of a {concept}",
    "a {concept} on a blue background",
    "a dog",
    "a tiger",
    "pixel art of a fox",
    "an apple",
    "a car on a blue background",
)
SEEDS = range(4)
GUIDANCE_SCALE = 4.0  # what the model card recommends; more oversaturates
CELL, GAP = 96, 8


def main() -> None:
    """Run the demo; every line says how long its step took."""
    args = parse_args()
    images = sorted((ROOT / "bench" / "images" / args.concept).glob("*.png"))
    if not images:
        sys.exit(f"--concept: got {args.concept!r}, allowed the folders of {ROOT / 'bench' / 'images'}")
    prompts = [prompt.format(concept=args.concept) for prompt in PROMPTS]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the server is stopped then too
    began = now = time.perf_counter()
    with (
        tempfile.TemporaryDirectory(prefix="unsee-demo-") as folder,
        running_server(Path(folder), args.model) as target,
    ):
        now = said("started the server", now)
        with unsee.Client(target) as client:
            before = draw_all(client, prompts, adapters=[])
            now = said(f"drew {len(prompts)} prompts with {len(SEEDS)} seeds each", now)
            adapter = client.erase(args.concept, images=images, seed=0, name="demo")
            now = said(
                f"erased {args.concept!r} from {len(images)} images; the adapter has {adapter.size_bytes} bytes", now
            )
            after = draw_all(client, prompts, adapters=["demo"])
            now = said("drew the same prompts and seeds with the adapter", now)
    said("stopped the server", now)
    sheet(prompts, before, after, args.concept).save(args.out)
    said(f"in all; look at {args.out}", began)


def parse_args() -> argparse.Namespace:
    """Return what to erase and where to leave the picture."""
    parser = argparse.ArgumentParser(description="Erase a concept and leave one picture of before and after.")
    parser.add_argument("--concept", default="cat", help="an object with images in bench/images (default: cat)")
    parser.add_argument(
        "--model", default=str(ROOT / "models" / "emoji"), help="folder of the model (default: models/emoji)"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "demo.png", help="the picture (default: demo.png)")
    return parser.parse_args()


@contextmanager
def running_server(folder: Path, model: str) -> Iterator[str]:
    """Run the server with its store in ``folder`` and give its address; stopped and gone afterwards.

    Raises:
        SystemExit: it ended, or did not answer within two minutes; its log is printed.
    """
    port, log = free_port(), folder / "server.log"
    command = [
        sys.executable,
        "-m",
        "unsee_server",
        "--model",
        model,
        "--store",
        str(folder / "store"),
        "--port",
        str(port),
    ]
    with log.open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        wait_until_serving(server, f"127.0.0.1:{port}", log)
        yield f"127.0.0.1:{port}"
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=30)


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_until_serving(server: "subprocess.Popen[bytes]", target: str, log: Path, timeout_s: float = 120) -> None:
    """Return once the server answers; a server that ended or never answers ends the demo with its log."""
    deadline = time.monotonic() + timeout_s
    with unsee.Client(target) as client:
        while server.poll() is None and time.monotonic() < deadline:
            try:
                client.server_info()
            except unsee.UnavailableError:
                time.sleep(0.2)
            else:
                return
    sys.exit(f"the server does not answer:\n{log.read_text()}")


def draw_all(client: unsee.Client, prompts: list[str], adapters: list[str]) -> list[list[Image.Image]]:
    """Return a row of pictures for each prompt, one for each seed."""
    rows = []
    for prompt in prompts:
        result = client.generate(
            prompt, adapters=adapters, seed=SEEDS[0], num_images=len(SEEDS), guidance_scale=GUIDANCE_SCALE
        )
        rows.append([image.to_pil() for image in result])
    return rows


def sheet(
    prompts: list[str], before: list[list[Image.Image]], after: list[list[Image.Image]], title: str
) -> Image.Image:
    """Return one labelled picture: a row a prompt, left as it was, right with the concept erased."""
    font, small = ImageFont.load_default(size=18), ImageFont.load_default(size=14)
    side, left = len(SEEDS) * (CELL + GAP), 190
    width, top = left + 2 * side + 3 * GAP, 84
    canvas = Image.new("RGB", (width, top + len(prompts) * (CELL + GAP) + GAP), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((GAP, GAP), f'"{title}" erased from five images', fill="black", font=ImageFont.load_default(size=22))
    for x, label in ((left, "before"), (left + side + 2 * GAP, f"after erasing {title!r}")):
        draw.text((x, 42), label, fill="black", font=font)
        for column, seed in enumerate(SEEDS):
            draw.text((x + column * (CELL + GAP), 64), f"seed {seed}", fill="dimgray", font=small)
    for row, prompt in enumerate(prompts):
        y = top + row * (CELL + GAP)
        is_concept = title in prompt.split()
        draw.text((GAP, y + CELL // 2 - 12), prompt, fill="firebrick" if is_concept else "black", font=small)
        for x, pictures in ((left, before[row]), (left + side + 2 * GAP, after[row])):
            for column, picture in enumerate(pictures):
                canvas.paste(picture.resize((CELL, CELL), Image.Resampling.LANCZOS), (x + column * (CELL + GAP), y))
    return canvas


def said(what: str, since: float) -> float:
    """Print what was done in how many seconds, and return the time."""
    now = time.perf_counter()
    print(f"{now - since:6.1f} s  {what}", flush=True)
    return now


if __name__ == "__main__":
    main()
