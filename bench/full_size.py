"""What Stable Diffusion 2 costs at its full size, with random weights. Run: ``make bench-gpu``.

Its published architecture is written to a temporary folder in float16 and loaded as any model is. Random weights draw
nothing and erase nothing, but they take the time and the memory of real ones, and give an adapter of the same bytes.
Erasures are in process, from decoded pictures to the change; the report stands apart. Pictures count from their
prompts to decoded images. Writes ``bench/results/full_size.{json,md}``.

On a CPU: ``--no-images --methods closed_form --picture-size 64 --steps 2 --batches 1``.
"""

import argparse
import os
import platform
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, get_args

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from bench import lines
from bench.editing import OPTIONS, edit, job_of
from bench.lines import RESULTS
from bench.painting import Model
from unsee_core.checkpoint import Variant, config_folder
from unsee_core.conditioning import Conditioner
from unsee_core.denoise import DenoiseRun, decode_image, denoise_step
from unsee_core.edit_work import library_versions
from unsee_core.job import GenerateJob
from unsee_core.methods import METHODS
from unsee_core.pipeline import Pipeline, load_pipeline

CONCEPT = "dog"
LONGER_TOKENS = slice(1500, 49406)  # "dog", "castle"; before them stand "a", "photo", "of", behind them start and end
WORDS_TELL = 4  # so much larger: else all words mean the same, are erased along, and nothing is held
_MIB = 2**20


@dataclass(frozen=True)
class Erased:
    """Erasures by one method; the first, which fills what is kept for a model, stands apart.

    Attributes:
        median: seconds of the later ones.
        slowest: seconds of the slowest of these.
        report: median seconds of the later ones' reports.
        size_bytes: of the adapter's file.
    """

    method: str
    first: float
    median: float
    slowest: float
    report: float
    size_bytes: int


@dataclass(frozen=True)
class Drawn:
    """Pictures drawn in one batch with an adapter, by the later of its runs.

    Attributes:
        median: seconds of the whole batch.
    """

    batch: int
    median: float

    @property
    def a_second(self) -> float:
        """Pictures in a second."""
        return self.batch / self.median


@contextmanager
def random_model(variant: Variant) -> Iterator[Path]:
    """Give a folder of Stable Diffusion 2's published architecture with random float16 weights; gone afterwards."""
    torch.manual_seed(0)
    with config_folder(variant) as folder:
        text_encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder"))
        text_encoder.get_input_embeddings().weight.data[LONGER_TOKENS] *= WORDS_TELL
        text_encoder.half().save_pretrained(folder / "text_encoder")
        for part, kind in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL)):
            kind.from_config(kind.load_config(folder / part)).half().save_pretrained(folder / part)
        yield folder


def erase(pipeline: Pipeline, method: str, repeats: int, *, with_images: bool) -> tuple[Erased, Model]:
    """Return what erasures by a method took, and the model with the last of them."""
    job = job_of(CONCEPT, method)
    job = job if with_images else replace(job, images=())
    seconds, reports = [], []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        edited = edit(pipeline, method, job)
        seconds.append(edited.seconds)
        reports.append(time.perf_counter() - began - edited.seconds)
    first, *later = seconds
    erased = Erased(method, first, median(later), max(later), median(reports[1:]), edited.size_bytes)
    return erased, edited.model


@torch.no_grad()
def draw(model: Model, batch: int, repeats: int, *, size: int, steps: int) -> Drawn:
    """Return what a batch of pictures takes, from prompts to decoded images."""
    pipeline, seconds = model.pipeline, []
    for repeat in range(repeats + 1):
        began = time.perf_counter()
        conditioner = Conditioner(pipeline)
        jobs = [
            GenerateJob(f"a photo of a {CONCEPT}", seed=batch * repeat + i, steps=steps, width=size, height=size)
            for i in range(batch)
        ]
        uncond = conditioner.encode([""], model.adapters)
        conds = conditioner.encode([job.prompt for job in jobs], model.adapters).split(1)
        runs = [DenoiseRun(pipeline, job, cond, uncond) for job, cond in zip(jobs, conds, strict=True)]
        while not runs[0].done:
            denoise_step(pipeline, runs, max_batch=2 * batch)
        for run in runs:
            decode_image(pipeline, run.latents)  # on the CPU: the device has done its work
        seconds.append(time.perf_counter() - began)
    return Drawn(batch, median(seconds[1:]))


def peak_bytes(device: torch.device) -> int:
    """Return the most memory that was held: of the device by torch, or else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def device_name(device: torch.device) -> str:
    """Return the accelerator's name, or the processor's cores and threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def markdown(content: Mapping[str, Any]) -> str:
    """Return the tables."""
    text = [
        "# Stable Diffusion 2 at full size, random weights",
        "",
        f"`{content['command']}`, {content['date']}; {content['device']}, {content['dtype']}; {content['versions']}; "
        f"variant {content['variant']}. In process; the first of each stands apart. Pictures: {content['size']} "
        f"pixels, {content['steps']} steps, with guidance and an adapter.",
        "",
        "| what | seconds | slowest | first | report | adapter |",
        "|---|---|---|---|---|---|",
        f"| load | {content['load']:.1f} | | | | |",
    ]
    text += [
        f"| erase by {one.method} | {one.median:.2f} | {one.slowest:.2f} | {one.first:.2f} | {one.report:.2f} | "
        f"{one.size_bytes:,} bytes |"
        for one in (Erased(**row) for row in content["erased"])
    ]
    text += ["", "| pictures at once | seconds | pictures a second |", "|---|---|---|"]
    for one in (Drawn(**row) for row in content["drawn"]):
        text.append(f"| {one.batch} | {one.median:.2f} | {one.a_second:.2f} |")
    text += ["", f"Most memory held: {content['peak_bytes'] / _MIB:,.0f} MiB."]
    return "\n".join(text) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure all and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=get_args(Variant), default="768-v")
    parser.add_argument("--model", help="a folder to measure in place of random weights")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N")
    parser.add_argument("--dtype", default="auto", help="auto, float32, float16, bfloat16")
    parser.add_argument("--methods", nargs="+", choices=(*METHODS, *OPTIONS), default=["closed_form", "few_shot_lora"])
    parser.add_argument("--no-images", action="store_true", help="erase by name alone, where a method can")
    parser.add_argument("--picture-size", type=int, help="pixels; the model's own")
    parser.add_argument("--steps", type=int, default=30, help="of drawing a picture")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 8], help="pictures drawn at once")
    parser.add_argument("--repeats", type=int, default=3, help="after the first of each")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)

    # 1. Load.
    if options.model:
        pipeline, seconds = _loaded(options.model, options)
    else:
        with random_model(options.variant) as folder:
            pipeline, seconds = _loaded(str(folder), options)

    # 2. Erase, and draw with what was made.
    erased = []
    for method in options.methods:
        one, model = erase(pipeline, method, options.repeats, with_images=not options.no_images)
        erased.append(asdict(one))
        print(f"{method}: {one.median:.2f} s", flush=True)
    size = options.picture_size or pipeline.default_size
    drawn = []
    for batch in options.batches:
        drawn.append(asdict(draw(model, batch, options.repeats, size=size, steps=options.steps)))
        print(f"{batch} pictures: {drawn[-1]['median']:.2f} s", flush=True)

    # 3. Write.
    content = {
        "command": lines.command("full_size", arguments),
        "date": datetime.now(UTC).date().isoformat(),
        "device": device_name(pipeline.device),
        "dtype": str(pipeline.dtype).removeprefix("torch."),
        "versions": library_versions(),
        "variant": "of its own" if options.model else options.variant,
        "model": pipeline.digests.model,
        "size": size,
        "steps": options.steps,
        "load": seconds,
        "erased": erased,
        "drawn": drawn,
        "peak_bytes": peak_bytes(pipeline.device),
    }
    lines.write_tables(options.results / "full_size", content, markdown(content))
    return 0


def _loaded(model: str, options: argparse.Namespace) -> tuple[Pipeline, float]:
    began = time.perf_counter()
    pipeline = load_pipeline(model, device=options.device, dtype=options.dtype)
    return pipeline, time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
