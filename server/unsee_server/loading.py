"""Builds what the calls work with; imported when it is needed, for torch and diffusers take seconds to import."""

import dataclasses
from importlib.metadata import version

import torch
from prometheus_client import CollectorRegistry

from unsee_core.engine import Engine
from unsee_core.methods import METHODS
from unsee_core.pipeline import load_pipeline
from unsee_core.store import AdapterStore
from unsee_server.metrics import EngineMetrics, add_device_memory
from unsee_server.service import Backend
from unsee_server.settings import Settings


def load_backend(settings: Settings, registry: CollectorRegistry) -> Backend:
    """Load the model, open the store and start the engine.

    Raises:
        ModelUnavailableError: the model cannot be had.
        StoreUnavailableError: the store cannot be read or written.
        InvalidRequestError: variant, device or dtype do not fit.
    """
    store = AdapterStore(settings.store)
    pipeline = load_pipeline(
        settings.model,
        variant=settings.variant,
        device=settings.device,
        dtype=settings.dtype,
        cache_folder=settings.cache.expanduser(),
    )
    if settings.guidance_scale is not None:
        pipeline = dataclasses.replace(pipeline, default_guidance_scale=settings.guidance_scale)
    if pipeline.device.type == "cuda":
        add_device_memory(registry, lambda: torch.cuda.memory_allocated(pipeline.device))
    observer = EngineMetrics(registry)
    engine = Engine(pipeline, store, limits=settings.limits, detector=settings.detector, observer=observer)
    return Backend(engine=engine, methods=METHODS, version=version("unsee"))
