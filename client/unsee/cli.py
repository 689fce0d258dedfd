"""The ``unsee`` command: what the SDK does, from a shell."""

import importlib.util
import os
import secrets
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from unsee.client import Adapter, Client
from unsee.errors import InvalidArgumentError
from unsee.terminal import fail, notes, out, print_json, print_rows, reported_errors, shown_progress
from unsee.types import AdapterFormat, ConceptKind, ImageFormat, SchedulerName

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)
adapters = typer.Typer(no_args_is_help=True, help="List, show, fetch, import and delete adapters.")
app.add_typer(adapters, name="adapters")

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and no progress.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite what is there.")]


@dataclass(frozen=True)
class Where:
    """How the server is reached, from the options before the command."""

    server: str
    token: str | None
    tls: bool
    tls_ca: Path | None
    tls_cert: Path | None
    tls_key: Path | None

    def client(self) -> Client:
        """Return a client of the server."""
        return Client(
            self.server,
            token=self.token,
            tls=self.tls,
            tls_ca=self.tls_ca,
            tls_cert=self.tls_cert,
            tls_key=self.tls_key,
        )


@app.callback()
def options(
    context: typer.Context,
    server: Annotated[str, typer.Option(envvar="UNSEE_SERVER", help="host:port of the server.")] = "127.0.0.1:50051",
    token: Annotated[str | None, typer.Option(envvar="UNSEE_TOKEN", help="Bearer token.")] = None,
    tls: Annotated[bool, typer.Option("--tls", help="TLS with the system's authorities.")] = False,
    tls_ca: Annotated[Path | None, typer.Option(envvar="UNSEE_TLS_CA", help="PEM file of authorities.")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM file of the client's certificate.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file of its key.")] = None,
) -> None:
    """Erase concepts from a resident Stable Diffusion 2, and draw with what is left."""
    context.obj = Where(server, token, tls, tls_ca, tls_cert, tls_key)


@app.command()
def erase(
    context: typer.Context,
    concept: Annotated[str, typer.Argument(help="Name of what is to be erased, as it stands in prompts.")],
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="[IMAGES]...", help="1-16 pictures of it: PNG, JPEG or WebP.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Also save the adapter here.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the adapter. Default: one is made up.")] = None,
    synonym: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Another name for it; may be repeated.")
    ] = None,
    kind: Annotated[ConceptKind, typer.Option(help="What kind of thing it is.")] = "object",
    anchor: Annotated[str | None, typer.Option(help="What takes its place. Default: nothing.")] = None,
    retain: Annotated[
        list[str] | None, typer.Option(metavar="PROMPT", help="A prompt that must stay; may be repeated.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="Method. Default: the server's.")] = None,
    strength: Annotated[float | None, typer.Option(help="In (0, 2]. Default: the method's.")] = None,
    rank: Annotated[int | None, typer.Option(help="1-64. Default: the method's.")] = None,
    steps: Annotated[int | None, typer.Option(help="1-2000. Default: the method's.")] = None,
    layers: Annotated[int | None, typer.Option(help="Last layers that change. Default: the method's.")] = None,
    train_final_norm: Annotated[bool, typer.Option("--train-final-norm", help="Change the final norm too.")] = False,
    seed: Annotated[int, typer.Option(help="Same seed and settings, same bytes.")] = 0,
    label: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Stored with it; may be repeated.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace an adapter of this name.")] = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Erase a concept and print its adapter."""
    with reported_errors(), context.obj.client() as client:
        check_is_free(output, force)
        with shown_progress(f"erasing {concept}", is_quiet=as_json) as on_progress:
            adapter = client.erase(
                concept,
                on_progress,
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
                layers=layers,
                train_final_norm=train_final_norm,
                seed=seed,
                labels=labels_of(label),
                replace=replace,
            )
        if output is not None:
            adapter.save(output)
        show_adapter(adapter, as_json)


@app.command()
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
        refs = [resolved(client, text) for text in adapter or []]
        with shown_progress(prompt, is_quiet=as_json) as on_progress:
            result = client.generate(
                prompt,
                on_progress,
                adapters=refs,
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


@app.command()
def info(context: typer.Context, as_json: Json = False) -> None:
    """Tell the server's model, limits and methods."""
    with reported_errors(), context.obj.client() as client:
        server = client.server_info()
        if as_json:
            print_json(server)
            return
        rows = {"version": server.version, **asdict(server.model), **asdict(server.limits)}
        print_rows(rows)
        for method in server.methods:
            mark = " (default)" if method.name == server.default_method else ""
            out.print(f"\nmethod {method.name}{mark}: {method.description} [{method.source}]", markup=False)
            print_rows({o.name: f"{o.default}; allowed {o.allowed}; {o.description}" for o in method.options})


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True}, add_help_option=False)
def serve(context: typer.Context) -> None:
    """Run the server; takes the options of python -m unsee_server."""
    if importlib.util.find_spec("unsee_server") is None or importlib.util.find_spec("torch") is None:
        fail("the server is not installed; pip install 'unsee[server]' brings it")
    command = [sys.executable, "-m", "unsee_server", *context.args]
    # In this process's place, so that a SIGTERM reaches the server itself.
    os.execv(sys.executable, command)  # noqa: S606 - the caller's own options for our own module


@adapters.command("list")
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
            table.add_row(a.name, a.concept.name, a.method, str(a.rank), str(a.size_bytes), stored, a.digest[:15])
        out.print(table)


@adapters.command()
def get(context: typer.Context, adapter: str, as_json: Json = False) -> None:
    """Tell everything about an adapter, by name or digest."""
    with reported_errors(), context.obj.client() as client:
        show_adapter(client.get_adapter(adapter), as_json)


@adapters.command()
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


@adapters.command("import")
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


@adapters.command()
def delete(context: typer.Context, name: str) -> None:
    """Delete an adapter, by name."""
    with reported_errors(), context.obj.client() as client:
        client.delete_adapter(name)


def resolved(client: Client, text: str) -> tuple[str, float]:
    """Return the name and the weight that ``no-cat:0.8`` or ``no-cat.safetensors`` stands for; a file is imported."""
    if is_adapter_file(Path(text)):
        return client.import_adapter(text).digest, 1.0
    name, weight = text, 1.0
    head, _, tail = text.rpartition(":")
    if (head and not text.startswith("sha256:")) or head.startswith("sha256:"):
        try:
            name, weight = head, float(tail)
        except ValueError:
            raise InvalidArgumentError(f"--adapter: got the weight {tail!r}, allowed a number in [-2, 2]") from None
    return client.import_adapter(name).digest if is_adapter_file(Path(name)) else name, weight


def is_adapter_file(path: Path) -> bool:
    """Whether a path is a file, or a folder as peft writes it; a folder of another kind may share an adapter's name."""
    return path.is_file() or (path / "adapter_config.json").is_file()


def check_is_free(path: Path | None, force: bool) -> None:
    """Raise InvalidArgumentError if something is there that must not be overwritten."""
    if path is not None and path.exists() and not force:
        raise InvalidArgumentError(f"--output: {path} exists; --force overwrites it")


def made_folder(path: Path) -> None:
    """Make a folder unless it is there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidArgumentError(f"--output: {path} cannot be made: {error.strerror}") from error


def labels_of(texts: list[str] | None) -> dict[str, str]:
    """Return the labels that ``KEY=VALUE`` texts stand for."""
    for text in texts or []:
        if "=" not in text:
            raise InvalidArgumentError(f"--label: got {text!r}, allowed KEY=VALUE")
    return dict(text.split("=", 1) for text in texts or [])


def facts(adapter: Adapter) -> dict[str, Any]:
    """Return what is known of an adapter, for JSON."""
    return {name: value for name, value in adapter.__dict__.items() if name != "_client"}


def show_adapter(adapter: Adapter, as_json: bool) -> None:
    """Print an adapter as JSON, or as rows a person reads."""
    if as_json:
        print_json(facts(adapter))
        return
    rows = facts(adapter)
    report = rows.pop("report")
    print_rows({**rows, "concept": adapter.concept.name, "base_model": adapter.base_model.name})
    if report is not None:
        out.print("report")
        print_rows({f"  {name}": value for name, value in asdict(report).items()})


def main() -> None:
    """Run the command."""
    app()
