"""``unsee info`` and ``unsee serve``."""

import importlib.util
import os
import sys
from dataclasses import asdict

import typer

from unsee.cli.where import Json
from unsee.terminal import fail, out, print_json, print_rows, reported_errors


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


def serve(context: typer.Context) -> None:
    """Run the server; takes the options of python -m unsee_server."""
    if importlib.util.find_spec("unsee_server") is None or importlib.util.find_spec("torch") is None:
        fail("the server is not installed; pip install 'unsee[server]' brings it")
    command = [sys.executable, "-m", "unsee_server", *context.args]
    # In this process's place, so that a SIGTERM reaches the server itself.
    os.execv(sys.executable, command)  # noqa: S606 - the caller's own options for our own module
