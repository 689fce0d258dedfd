"""Errors as the wire carries them."""

import re

import grpc
import pytest
from google.rpc import error_details_pb2

from unsee_core.errors import FieldViolation, InvalidRequestError, QueueFullError, UnseeError
from unsee_server.errors import DOMAIN, STATUS, rich_status


def family(error: type[UnseeError]) -> set[type[UnseeError]]:
    return {error}.union(*(family(child) for child in error.__subclasses__()))


def test_every_deliberate_error_has_a_status() -> None:
    assert set(STATUS) == family(UnseeError) - {UnseeError}


def test_every_reason_is_its_own_and_in_upper_snake() -> None:
    reasons = [status.reason for status in STATUS.values()]
    assert len(set(reasons)) == len(reasons)
    assert all(re.fullmatch(r"[A-Z][A-Z0-9_]{2,62}", reason) for reason in reasons)


def test_no_deliberate_error_looks_like_a_bug() -> None:
    codes = {status.code for status in STATUS.values()}
    assert not codes & {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.OK}


def test_an_error_carries_reason_fields_and_when_to_try_again() -> None:
    status = rich_status(QueueFullError("full", violations=(FieldViolation("a", "b"),), retry_delay_s=2.5))
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    assert [d.Unpack(m) for d, m in zip(status.details, (info, bad, retry), strict=True)] == [True] * 3
    assert (info.domain, info.reason) == (DOMAIN, "QUEUE_FULL")
    assert (bad.field_violations[0].field, bad.field_violations[0].description) == ("a", "b")
    assert retry.retry_delay.ToMilliseconds() == 2500


@pytest.mark.parametrize("text", ["x" * 10_000, "€" * 10_000])
def test_a_long_text_is_cut_to_what_trailers_may_hold(text: str) -> None:
    violations = tuple(FieldViolation(text, text) for _ in range(100))
    status = rich_status(InvalidRequestError(text, violations=violations))
    assert len(status.message) <= 600
    assert status.message.endswith("…")


def test_a_bug_tells_nothing_of_itself() -> None:
    status = rich_status(RuntimeError("the secret"))
    assert status.code == grpc.StatusCode.INTERNAL.value[0]
    assert "secret" not in str(status)
