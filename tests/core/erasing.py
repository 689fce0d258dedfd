"""What tests of erasing methods share: a job, its context on a model, and a run to its end."""

import hashlib
from dataclasses import replace
from pathlib import Path

from PIL import Image

from unsee_core.answers import EraseProgress
from unsee_core.job import Concept, EraseJob
from unsee_core.lora import LoraFactors
from unsee_core.methods import EraseContext, check_job
from unsee_core.methods.base import MethodRun
from unsee_core.pipeline import Pipeline

CLIENT_IMAGES = Path(__file__).parents[2] / "bench" / "images"
IMAGE = b"any bytes: decoding is the engine's"


def a_job(**changes: object) -> EraseJob:
    return replace(EraseJob(Concept("cat", ("kitten",)), images=(IMAGE,), method="few_shot_lora"), **changes)


def a_context(pipeline: Pipeline, name: str = "cat", **changes: object) -> EraseContext:
    job = replace(a_job(steps=3, rank=4), **changes)
    pictures = sorted((CLIENT_IMAGES / name).glob("*.png")) if job.images else []
    images = tuple(Image.open(path).convert("RGB") for path in pictures)
    return EraseContext(pipeline, job, images, check_job(job, pipeline))


def finish(steps: MethodRun) -> tuple[LoraFactors, list[EraseProgress]]:
    progress = []
    while True:
        try:
            progress.append(next(steps))
        except StopIteration as end:
            return end.value.factors, progress


def weights_digest(pipeline: Pipeline) -> str:
    digest = hashlib.sha256()
    for module in (pipeline.text_encoder, pipeline.unet, pipeline.vae):
        for name, value in module.state_dict().items():
            digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()
