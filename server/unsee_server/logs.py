"""Structured logs: JSON lines, or readable ones on a terminal. Never prompts, concepts or images."""

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import structlog

from unsee_server.calls import Call
from unsee_server.metrics import code_of

Level = Literal["debug", "info", "warning", "error"]
logger = structlog.stdlib.get_logger("unsee_server.calls")


def configure(level: Level) -> None:
    """Send the logs of this process, those of its libraries included, to the standard error."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    is_terminal = sys.stderr.isatty()
    last: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer()]
        if is_terminal
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


@asynccontextmanager
async def log_call(call: Call) -> AsyncIterator[None]:
    """Log the end of a call: method, status, reason, caller, seconds, and the request's id where there is one."""
    began = time.perf_counter()
    code = "OK"
    try:
        yield
    except BaseException as error:
        code = code_of(call, error).name
        if isinstance(error, asyncio.CancelledError):
            call.reason = code
        raise
    finally:
        logger.info(
            "call",
            method=call.method,
            code=code,
            reason=call.reason,
            caller=call.caller,
            request_id=call.request_id,
            seconds=round(time.perf_counter() - began, 4),
        )
