"""``unsee adapters``: list, get, download, images, import, compose, delete."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from unsee.cli.inputs import check_is_free, labels_of
from unsee.cli.report_pictures import paths_in, save_pictures
from unsee.cli.shown import concepts_of, facts, show_adapter
from unsee.cli.where import Force, Json
from unsee.names import AdapterFormat
from unsee.terminal import notes, out, print_json, reported_errors, shown_progress


def list_adapters(
    context: typer.Context,
    label: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Label it must have; may be repeated.")
    ] = None,
    concept: Annotated[str, typer.Option(help="Name or synonym of the concept.")] = "",
    method: Annotated[str, typer.Option(help="Method that made it.")] = "",
    as_json: Json = False,
) -> None:
    """List the adapters, by name."""
    with reported_errors(), context.obj.client() as client:
        found = list(client.list_adapters(labels=labels_of(label), concept=concept, method=method))
        if as_json:
            print_json([facts(adapter) for adapter in found])
            return
        table = Table("name", "concept", "method", "rank", "bytes", "stored", "digest", box=None)
        for a in found:
            stored = a.create_time.strftime("%Y-%m-%d %H:%M")
            table.add_row(a.name, concepts_of(a), a.method, str(a.rank), str(a.size_bytes), stored, a.digest[:15])
        out.print(table)


def get(context: typer.Context, adapter: str, as_json: Json = False) -> None:
    """Tell everything about an adapter, by name or digest."""
    with reported_errors(), context.obj.client() as client:
        show_adapter(client.get_adapter(adapter), as_json)


def download(
    context: typer.Context,
    adapter: str,
    output: Annotated[Path, typer.Option("--output", "-o", help="File, or for peft a folder.")],
    layout: Annotated[AdapterFormat, typer.Option("--format", help="Layout of the bytes.")] = "diffusers",
    force: Force = False,
) -> None:
    """Save an adapter, by name or digest."""
    with reported_errors(), context.obj.client() as client:
        check_is_free(output, force)
        path = client.get_adapter(adapter).save(output, layout, replace=force)
        out.print(str(path), markup=False, highlight=False)


def images(
    context: typer.Context,
    adapter: str,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures; made if missing.")],
    force: Force = False,
) -> None:
    """Save the pictures that were kept with an adapter's report."""
    with reported_errors(), context.obj.client() as client:
        kept = client.report_images(adapter)
        for path in paths_in(output, len(kept) // 2):
            check_is_free(path, force)
        for path, image in zip(save_pictures(kept, output), kept, strict=True):
            out.print(f"{path}  {image.prompt}", markup=False, highlight=False)
        if not kept:
            notes.print(f"{adapter} has no pictures: it was not erased with --keep-images", markup=False)


def import_(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(help="A safetensors file, or a folder as peft writes it.")],
    name: Annotated[str | None, typer.Option(help="Name of the adapter. Default: one is made up.")] = None,
    concept: Annotated[str | None, typer.Option(help="What it erases, where it does not say itself.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Stored with it; may be repeated.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace an adapter of this name.")] = False,
    as_json: Json = False,
) -> None:
    """Store an adapter that was made elsewhere."""
    with reported_errors(), context.obj.client() as client:
        adapter = client.import_adapter(source, name=name, replace=replace, labels=labels_of(label), concept=concept)
        show_adapter(adapter, as_json)


def compose(
    context: typer.Context,
    adapters: Annotated[list[str], typer.Argument(metavar="NAME...", help="2-64 adapters, by name or digest.")],
    name: Annotated[str | None, typer.Option(help="Name of the new adapter. Default: one is made up.")] = None,
    retain: Annotated[
        list[str] | None, typer.Option(metavar="PROMPT", help="A prompt that must stay; may be repeated.")
    ] = None,
    strength: Annotated[
        float | None, typer.Option(help="In (0, 2]. Default: the most at which the rest stays.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Stored with it; may be repeated.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace an adapter of this name.")] = False,
    as_json: Json = False,
) -> None:
    """Erase with one adapter what many erase, and print it."""
    with reported_errors(), context.obj.client() as client:
        with shown_progress(f"composing {len(adapters)} adapters", is_quiet=as_json) as on_progress:
            adapter = client.compose(
                adapters,
                on_progress,
                name=name,
                retain=retain or [],
                strength=strength,
                labels=labels_of(label),
                replace=replace,
            )
        show_adapter(adapter, as_json)


def delete(context: typer.Context, name: str) -> None:
    """Delete an adapter, by name."""
    with reported_errors(), context.obj.client() as client:
        client.delete_adapter(name)
