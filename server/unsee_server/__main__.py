"""``unsee-server`` and ``python -m unsee_server``."""

import asyncio
import os
import sys

from prometheus_client import CollectorRegistry

from unsee_server import logs
from unsee_server.app import serve
from unsee_server.service import Backend
from unsee_server.settings import Settings, read_settings


def main() -> None:
    """Serve until SIGTERM; exit with 0, or with 2 after a setting that is not allowed, or with 1."""
    settings, tokens = read_settings(sys.argv[1:])
    logs.configure(settings.log_level)
    sys.exit(asyncio.run(serve(settings, tokens, load)))


def load(settings: Settings, registry: CollectorRegistry) -> Backend:
    """Import torch and all that needs it, and load the backend; the ports are open by then."""
    # libgomp's own default, which it drops where it counts more threads than cores, as in any server: its workers would
    # sleep between small operators, and an erasure on a CPU take longer.
    os.environ.setdefault("GOMP_SPINCOUNT", "300000")
    from unsee_server.loading import load_backend

    return load_backend(settings, registry)


if __name__ == "__main__":
    main()
