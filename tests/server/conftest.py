"""A server for each test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.server.world import World, serving
from unsee_core.pipeline import Pipeline


@pytest.fixture
async def world(tiny_pipeline: Pipeline, tmp_path: Path) -> AsyncIterator[World]:
    """A server with default settings and an empty store."""
    async with serving(tiny_pipeline, tmp_path / "store") as running:
        yield running
