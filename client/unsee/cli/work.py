"""``unsee erase`` and ``unsee generate``."""

import secrets
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from unsee.applying import AdapterRef
from unsee.cli.inputs import (
    check_is_free,
    check_writable,
    guard_of,
    labels_of,
    made_folder,
    options_of,
    resolved,
    schedule_of,
)
from unsee.cli.report_pictures import ReportPictures
from unsee.cli.shown import show_adapter
from unsee.cli.where import Force, Json
from unsee.errors import InvalidArgumentError
from unsee.names import ConceptKind, ImageFormat, SchedulerName
from unsee.terminal import notes, out, print_json, reported_errors, shown_progress


def erase(
    context: typer.Context,
    concept: Annotated[
        str, typer.Argument(help="Name of what is to be erased, as it stands in prompts; '': what the pictures show.")
    ],
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="[IMAGES]...", help="1-16 pictures of it: PNG, JPEG or WebP.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Also save the adapter here.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the adapter. Default: one is made up.")] = None,
    synonym: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Another name for it; may be repeated.")
    ] = None,
    kind: Annotated[ConceptKind, typer.Option(help="What kind of thing it is.")] = "object",
    anchor: Annotated[str | None, typer.Option(help="What takes its place. Default: as the method does.")] = None,
    retain: Annotated[
        list[str] | None, typer.Option(metavar="PROMPT", help="A prompt that must stay; may be repeated.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="Method. Default: the server's.")] = None,
    strength: Annotated[float | None, typer.Option(help="In (0, 2]. Default: the method's.")] = None,
    rank: Annotated[int | None, typer.Option(help="1-64. Default: the method's.")] = None,
    steps: Annotated[int | None, typer.Option(help="1-2000. Default: the method's.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="What only the given --method reads; see `unsee info`; may be repeated."
        ),
    ] = None,
    in_force: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Adapter that it is applied beside; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed and settings, same bytes.")] = 0,
    label: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Stored with it; may be repeated.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace an adapter of this name.")] = False,
    report_images: Annotated[
        int, typer.Option(help="2-8 prompts that are drawn without and with it, for the report. Default: none.")
    ] = 0,
    report_folder: Annotated[Path | None, typer.Option(help="Save these pictures here; made if missing.")] = None,
    keep_images: Annotated[bool, typer.Option("--keep-images", help="Store these pictures with the adapter.")] = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Erase a concept and print its adapter."""
    with reported_errors(), context.obj.client() as client:
        check_writable(output, force)
        pictures = ReportPictures(report_folder, report_images, force)
        with shown_progress(f"erasing {concept}", is_quiet=as_json) as on_progress:
            adapter = client.erase(
                concept,
                pictures.noticing(on_progress),
                images=images or [],
                name=name,
                synonyms=synonym or [],
                kind=kind,
                anchor=anchor,
                retain=retain or [],
                method=method,
                strength=strength,
                rank=rank,
                steps=steps,
                options=options_of(option),
                adapters_in_force=in_force or [],
                seed=seed,
                labels=labels_of(label),
                replace=replace,
                report_images=report_images,
                keep_images=keep_images,
            )
        if output is not None:
            adapter.save(output)
        pictures.save()
        show_adapter(adapter, as_json)


def generate(
    context: typer.Context,
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures; made if missing.")] = Path(),
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:WEIGHT]", help="Name, digest, or file to import first; no-cat:0.8; may be repeated."
        ),
    ] = None,
    adapter_schedule: Annotated[
        str | None,
        typer.Option(metavar="START:END[:RAMP]", help="Shares of the steps within which the adapters act; 0:1 is all."),
    ] = None,
    gate: Annotated[
        bool, typer.Option("--gate", help="Each adapter acts only on prompts that share a word with its concept.")
    ] = False,
    guard: Annotated[
        float | None,
        typer.Option(metavar="SCALE", help="0-10; steers away from the adapters' concepts; 1 and 2 were tried."),
    ] = None,
    guard_word: Annotated[
        list[str] | None, typer.Option(metavar="PROMPT", help="What to guard against instead; may be repeated.")
    ] = None,
    negative_prompt: Annotated[str, typer.Option(help="What to steer away from.")] = "",
    seed: Annotated[int | None, typer.Option(help="Of the first picture. Default: one is drawn.")] = None,
    steps: Annotated[int | None, typer.Option(help="1-200. Default: 25.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="0-50. Default: the server's.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels. Default: the model's size.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels. Default: the model's size.")] = None,
    num_images: Annotated[int, typer.Option("--num-images", "-n", help="1-16.")] = 1,
    scheduler: Annotated[SchedulerName | None, typer.Option(help="Default: the model's own.")] = None,
    image_format: Annotated[ImageFormat, typer.Option("--format", help="Of the files.")] = "png",
    no_metadata: Annotated[bool, typer.Option("--no-metadata", help="PNG files carry no settings.")] = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Draw pictures into a folder and print their paths."""
    with reported_errors(), context.obj.client() as client:
        seed = secrets.randbelow(2**32) if seed is None else seed
        for i in range(num_images):
            check_is_free(output / f"{seed + i}.{image_format}", force)
        made_folder(output)
        schedule = schedule_of(adapter_schedule)
        if not adapter and (gate or schedule is not None):
            option = "--gate" if gate else "--adapter-schedule"
            raise InvalidArgumentError.of(option, "got one without an adapter, allowed with --adapter")
        refs = [AdapterRef(*resolved(client, text), schedule, gate) for text in adapter or []]
        with shown_progress(prompt, is_quiet=as_json) as on_progress:
            result = client.generate(
                prompt,
                on_progress,
                adapters=refs,
                guard=guard_of(guard, guard_word),
                negative_prompt=negative_prompt,
                seed=seed,
                steps=steps,
                guidance_scale=guidance_scale,
                width=width,
                height=height,
                num_images=num_images,
                scheduler=scheduler,
                image_format=image_format,
                no_metadata=no_metadata,
            )
        paths = [output / f"{image.seed}.{image.format}" for image in result.images]
        for image, path in zip(result.images, paths, strict=True):
            image.save(path)
        if result.prompt_cut_off:
            notes.print(f"beyond 77 tokens, and not drawn: {result.prompt_cut_off}", markup=False)
        if as_json:
            images = [{"path": str(path), "seed": image.seed} for image, path in zip(result.images, paths, strict=True)]
            print_json({**asdict(result), "images": images})
        else:
            for path in paths:
                out.print(str(path), markup=False, highlight=False)
