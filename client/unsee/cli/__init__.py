"""The ``unsee`` command: what the SDK does, from a shell; a module for each group of commands."""

import typer

from unsee.cli.adapters import compose, delete, download, get, images, import_, list_adapters
from unsee.cli.audit import audit, audits
from unsee.cli.server import info, serve
from unsee.cli.where import options
from unsee.cli.work import erase, generate

_AS_IT_COMES = {"allow_extra_args": True, "ignore_unknown_options": True}

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)
app.callback()(options)
app.command()(erase)
app.command()(generate)
app.command()(audit)
app.command()(info)
app.command(context_settings=_AS_IT_COMES, add_help_option=False)(serve)

_stored = typer.Typer(no_args_is_help=True, help="Stored adapters, their pictures and their audits.")
_stored.command("list")(list_adapters)
_stored.command()(get)
_stored.command()(download)
_stored.command()(images)
_stored.command()(audits)
_stored.command("import")(import_)
_stored.command()(compose)
_stored.command()(delete)
app.add_typer(_stored, name="adapters")


def main() -> None:
    """Run the command."""
    app()
