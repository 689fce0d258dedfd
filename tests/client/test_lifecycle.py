"""Work and clients from start to end: cancelled early, closed meanwhile, interrupted, forked."""

import asyncio
import subprocess
import sys
import threading
import time
from typing import Any

import grpc
import pytest

import unsee
from tests.client.conftest import Scripted, failing
from tests.client.test_client import ADAPTER, Server, completed, erases, queued, step
from unsee.v1 import adapters_pb2, cancel_pb2


class Work:
    """An erasure that the server knows a while after it was asked for, and that runs until it is cancelled."""

    def __init__(self, servicer: Scripted, accepted_after_s: float = 0.0) -> None:
        self.accepted_after_s = accepted_after_s
        self.is_known = self.is_cancelled = False
        servicer.script["Erase"] = [lambda request, context: [self._accept(request), self._run(context)]]
        servicer.script["Cancel"] = [self._cancel]

    async def _accept(self, request: Any) -> Any:
        await asyncio.sleep(self.accepted_after_s)
        self.is_known = True
        return queued(request.request_id)

    async def _run(self, context: Any) -> None:
        while not self.is_cancelled:
            await asyncio.sleep(0.01)
        await failing(context, grpc.StatusCode.CANCELLED)

    async def _cancel(self, request: Any, context: Any) -> Any:
        if not self.is_known:
            await failing(context, grpc.StatusCode.NOT_FOUND)
        self.is_cancelled = True
        return cancel_pb2.CancelResponse()


def test_work_can_be_cancelled_before_the_server_has_accepted_it(scripted: Server) -> None:
    servicer, target = scripted
    work = Work(servicer, accepted_after_s=0.3)
    with unsee.Client(target) as client:
        job = client.start_erase("cat")
        job.cancel()
        with pytest.raises(unsee.CancelledError):
            job.result(timeout=30)
    assert work.is_cancelled


def test_work_that_waits_to_try_again_can_be_cancelled_at_once(scripted: Server) -> None:
    servicer, target = scripted
    servicer.script["Erase"] = [
        lambda request, context: [failing(context, grpc.StatusCode.UNAVAILABLE, retry_after_s=0.9)]
    ]
    with unsee.Client(target) as client:
        job = client.start_erase("cat")
        while not servicer.asked:
            time.sleep(0.01)
        job.cancel()
        with pytest.raises(unsee.CancelledError, match=job.request_id):
            job.result(timeout=30)
    assert [method for method, _ in servicer.asked] == ["Erase"]


def test_a_callback_that_raises_cancels_the_work_and_is_what_the_caller_sees(scripted: Server) -> None:
    servicer, target = scripted
    work = Work(servicer)

    def refuse(event: Any) -> None:
        raise ZeroDivisionError(event)

    with unsee.Client(target) as client, pytest.raises(ZeroDivisionError):
        client.erase("cat", refuse)
    assert work.is_cancelled


async def test_a_cancelled_task_cancels_the_work(scripted: Server) -> None:
    servicer, target = scripted
    work = Work(servicer)
    async with unsee.AsyncClient(target) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await client.erase("cat")
    assert work.is_cancelled


def test_cancelling_work_that_has_ended_does_nothing(scripted: Server) -> None:
    servicer, target = scripted
    servicer.script["Erase"] = [erases]
    with unsee.Client(target) as client:
        job = client.start_erase("cat")
        job.result()
        job.cancel()
    assert [method for method, _ in servicer.asked] == ["Erase"]


def test_a_server_that_stays_away_is_given_up(scripted: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    servicer, target = scripted
    monkeypatch.setattr("unsee.jobs.MAX_TRIES", 3)
    servicer.script["Erase"] = [
        lambda request, context: [failing(context, grpc.StatusCode.UNAVAILABLE, retry_after_s=0.01)]
    ]
    with unsee.Client(target) as client, pytest.raises(unsee.UnavailableError) as gone:
        client.erase("cat")
    assert gone.value.retry_delay_s == 0.01
    assert len(servicer.asked) == 3


def test_tries_are_counted_anew_after_each_message(scripted: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    servicer, target = scripted
    monkeypatch.setattr("unsee.jobs.MAX_TRIES", 2)

    def breaks(request: Any, context: Any) -> list[Any]:
        return [queued(request.request_id), failing(context, grpc.StatusCode.UNAVAILABLE, retry_after_s=0.01)]

    servicer.script["Erase"] = [breaks, breaks, breaks, erases]
    with unsee.Client(target) as client:
        assert client.erase("cat").name == "no-cat"


def test_closing_ends_the_calls_of_other_threads(scripted: Server) -> None:
    servicer, target = scripted
    ended: list[str] = []

    async def never() -> Any:
        await asyncio.sleep(60)

    servicer.script["GetAdapter"] = [lambda request, context: never()]
    servicer.script["Erase"] = [lambda request, context: [queued(request.request_id), never()]]
    client = unsee.Client(target)
    job = client.start_erase("cat")

    def wait(call: Any) -> None:
        try:
            call()
        except (RuntimeError, unsee.CancelledError) as error:
            ended.append(str(error))

    threads = [threading.Thread(target=wait, args=(call,)) for call in (job.result, lambda: client.get_adapter("a"))]
    for thread in threads:
        thread.start()
    while len(servicer.asked) < 2:
        time.sleep(0.01)
    client.close()
    for thread in threads:
        thread.join(10)
    assert len(ended) == 2, ended
    assert all("closed" in text for text in ended)


def test_a_client_that_is_never_closed_lets_the_process_end(scripted: Server) -> None:
    servicer, target = scripted
    servicer.script["GetAdapter"] = [lambda request, context: adapters_pb2.GetAdapterResponse(adapter=ADAPTER)]
    code = f"import unsee; client = unsee.Client({target!r}); print(client.get_adapter('no-cat').name)"
    shown = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert (shown.stdout, shown.stderr) == ("no-cat\n", "")


def test_a_forked_process_is_told_to_make_a_client_of_its_own() -> None:
    code = """
import os, unsee
client = unsee.Client("127.0.0.1:1")
if os.fork() == 0:
    try:
        client.server_info()
    except RuntimeError as error:
        print(error, flush=True)
    client.close()
    os._exit(0)
os.wait()
client.close()
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "forked" in shown.stdout


def test_a_job_can_be_read_from_several_threads_and_again_after_its_end(scripted: Server) -> None:
    servicer, target = scripted

    async def later(response: Any) -> Any:
        await asyncio.sleep(0.05)
        return response

    servicer.script["Erase"] = [lambda r, c: [queued(r.request_id), *(later(step(i)) for i in range(5)), completed()]]
    seen: list[int] = []
    with unsee.Client(target) as client:
        job = client.start_erase("cat")
        threads = [threading.Thread(target=lambda: seen.append(len(list(job)))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(list(job)) == 7
    assert seen == [7, 7, 7, 7]


def test_clients_that_follow_one_another_leave_no_word(scripted: Server) -> None:
    servicer, target = scripted
    page = adapters_pb2.ListAdaptersResponse(adapters=[ADAPTER], next_page_token="more")
    servicer.script["ListAdapters"] = [lambda request, context: page]
    servicer.script["Erase"] = [
        lambda request, context: [queued(request.request_id), failing(context, grpc.StatusCode.UNAVAILABLE)]
    ]
    code = f"""
import gc, threading, unsee
def use():
    with unsee.Client({target!r}) as client:
        half_read = client.list_adapters()
        next(half_read)
        client.start_erase("cat")
        try:
            client.get_adapter("x" * 9)
        except unsee.Error:
            pass
    del client, half_read
    gc.collect()
for _ in range(5):
    use()
threads = [threading.Thread(target=use) for _ in range(5)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""
    servicer.script["GetAdapter"] = [lambda request, context: failing(context, grpc.StatusCode.NOT_FOUND)]
    shown = subprocess.run(
        [sys.executable, "-X", "dev", "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert shown.stderr == ""
