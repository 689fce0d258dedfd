"""What all commands take: how the server is reached, how results are shown."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from unsee.client import Client

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
