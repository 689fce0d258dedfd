"""Pictures from plain diffusers, and sheets of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from bench.prompts import Question

MODEL = Path(__file__).parent.parent / "models" / "emoji"
STEPS = 25
GUIDANCE_SCALE = 4.0
BATCH = 32

Images = NDArray[np.uint8]


def load_pipeline(path: Path = MODEL) -> StableDiffusionPipeline:
    """Return the model as diffusers loads it, float32, on the CPU, quiet."""
    pipeline = StableDiffusionPipeline.from_pretrained(path).to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline: StableDiffusionPipeline, questions: Sequence[Question], *, guidance_scale: float) -> Images:
    """Return one picture for each question, ``(B, 64, 64, 3)``; each depends on its own prompt and seed only.

    Computes in bfloat16 where autocast does, in a third of float32's time on a CPU that has it.
    """
    made = []
    for start in range(0, len(questions), BATCH):
        batch = questions[start : start + BATCH]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            images = pipeline(
                [question.text for question in batch],
                generator=[torch.Generator().manual_seed(question.seed) for question in batch],
                num_inference_steps=STEPS,
                guidance_scale=guidance_scale,
                output_type="np",
            ).images
        made.append((images * 255).round().astype(np.uint8))
    return np.concatenate(made)


def sheet(images: Images, *, columns: int, scale: int = 2) -> Image.Image:
    """Return pictures side by side, row by row, each enlarged without smoothing."""
    rows = -(-len(images) // columns)
    height, width = images.shape[1:3]
    canvas = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for number, image in enumerate(images):
        top, left = number // columns * height, number % columns * width
        canvas[top : top + height, left : left + width] = image
    picture = Image.fromarray(canvas)
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def confusion_picture(
    counts: NDArray[np.int64], names: Sequence[str], *, cell: int = 14, margin: int = 80
) -> Image.Image:
    """Return a table of what was asked (rows) against what was seen (columns), darker for more."""
    side = margin + cell * len(names)
    picture = Image.new("RGB", (side, side), "white")
    pen = ImageDraw.Draw(picture)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    for row, name in enumerate(names):
        pen.text((2, margin + row * cell), name, fill="black")
        label = Image.new("RGB", (margin, cell), "white")
        ImageDraw.Draw(label).text((2, 0), name, fill="black")
        picture.paste(label.rotate(90, expand=True), (margin + row * cell, 0))
        for column in range(len(names)):
            shade = round(255 * (1 - shares[row, column]))
            corner = (margin + column * cell, margin + row * cell)
            colour = (shade, shade, 255) if row == column else (255, shade, shade)
            pen.rectangle((*corner, corner[0] + cell - 2, corner[1] + cell - 2), fill=colour)
    return picture
