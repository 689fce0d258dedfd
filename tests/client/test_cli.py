"""The command line against a server that answers as told: what is shown where, statuses, interrupts."""

import asyncio
import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner, Result

from tests.client.conftest import failing
from tests.client.test_client import (
    ADAPTER,
    Server,
    completed,
    composes,
    download_parts,
    erases,
    pictured,
    queued,
    step,
)
from unsee.cli import app
from unsee.v1 import adapters_pb2, cancel_pb2, common_pb2, erase_pb2, generate_pb2

Run = Callable[..., Result]
COMMAND = [sys.executable, "-c", "from unsee.cli import main; main()"]
# What is started in the background of a shell ignores interrupts, and so does all that it starts.
HEEDING_INTERRUPTS = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"


@pytest.fixture
def run(scripted: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNSEE_SERVER", scripted[1])
    return lambda *words: CliRunner().invoke(app, words)


def draws(request: generate_pb2.GenerateRequest, context: Any) -> list[Any]:
    pictures = [
        generate_pb2.GenerateImage(index=i, seed=request.seed + i, format=request.image_format, data=b"picture")
        for i in range(request.num_images)
    ]
    done = generate_pb2.GenerateCompleted(prompt_cut_off="the end")
    return [
        *(generate_pb2.GenerateResponse(image=p) for p in pictures),
        generate_pb2.GenerateResponse(completed=done),
    ]


def test_results_go_to_stdout_and_progress_to_stderr(scripted: Server, run: Run) -> None:
    scripted[0].script["Erase"] = [erases]
    shown = run("erase", "cat", "--label", "team=legal")
    assert shown.exit_code == 0, shown.output
    assert "no-cat" in shown.stdout
    assert shown.stderr == "erasing cat: train 1/9\n"


def test_json_is_all_that_a_script_sees(scripted: Server, run: Run) -> None:
    scripted[0].script["Erase"] = [erases]
    shown = run("erase", "cat", "--json")
    assert json.loads(shown.stdout)["digest"] == ADAPTER.digest
    assert shown.stderr == ""


def test_composing_takes_names_and_prints_the_adapter_with_all_concepts(scripted: Server, run: Run) -> None:
    scripted[0].script["ComposeAdapters"] = [composes]
    words = ("--name", "both", "--retain", "a fox", "--strength", "0.5", "--label", "a=b", "--replace")
    shown = run("adapters", "compose", "no-cat", "no-dog", *words)
    assert shown.exit_code == 0, shown.output
    assert "cat, dog" in shown.stdout
    assert shown.stderr == "composing 2 adapters: train 1/9\n"
    (_, request) = scripted[0].asked[0]
    assert (list(request.adapters), request.adapter_name, request.strength) == (["no-cat", "no-dog"], "both", 0.5)
    assert (list(request.retain_prompts), dict(request.labels), request.replace) == (["a fox"], {"a": "b"}, True)


def test_pictures_are_named_by_their_seed(scripted: Server, run: Run) -> None:
    scripted[0].script["Generate"] = [draws]
    shown = run("generate", "a cat", "-o", "out", "--seed", "5", "-n", "2", "--format", "webp")
    assert shown.stdout == "out/5.webp\nout/6.webp\n"
    assert Path("out/6.webp").read_bytes() == b"picture"
    assert "not drawn: the end" in shown.stderr


def test_nothing_is_drawn_that_could_not_be_saved(scripted: Server, run: Run) -> None:
    Path("6.png").write_bytes(b"mine")
    refused = run("generate", "a cat", "--seed", "5", "-n", "2")
    assert refused.exit_code == 1
    assert refused.stderr == "unsee: --output: 6.png exists; --force overwrites it\n"
    assert scripted[0].asked == []


def test_a_weight_may_follow_a_name_or_a_digest(scripted: Server, run: Run) -> None:
    servicer, _ = scripted
    servicer.script["Generate"] = [draws]
    Path("no-fox").mkdir()
    digest = "sha256:" + "0" * 64
    shown = run(
        "generate", "a cat", *(w for a in ("no-cat:0.5", digest, f"{digest}:-1", "no-fox") for w in ("--adapter", a))
    )
    assert shown.exit_code == 0, shown.output
    (_, request) = servicer.asked[0]
    assert [(a.adapter, a.weight) for a in request.adapters] == [
        ("no-cat", 0.5),
        (digest, 1.0),
        (digest, -1.0),
        ("no-fox", 1.0),
    ]


def test_guard_schedule_and_gate_reach_the_request(scripted: Server, run: Run) -> None:
    servicer, _ = scripted
    servicer.script["Generate"] = [draws]
    options = ("--guard", "2", "--guard-word", "a cat", "--adapter-schedule", "0.25:0.75:0.125", "--gate")
    shown = run("generate", "a cat", "--adapter", "no-cat", *options)
    assert shown.exit_code == 0, shown.output
    (_, request) = servicer.asked[0]
    (ref,) = request.adapters
    assert ref.gate
    assert (ref.schedule.start, ref.schedule.end, ref.schedule.ramp) == (0.25, 0.75, 0.125)
    assert (request.guard.scale, list(request.guard.words)) == (2.0, ["a cat"])


@pytest.mark.parametrize("name", ["cat.safetensors", "a:b.safetensors"])
def test_an_adapter_that_is_a_file_is_imported_first(scripted: Server, run: Run, name: str) -> None:
    servicer, _ = scripted
    servicer.script["Generate"] = [draws]
    servicer.script["ImportAdapter"] = [lambda r, c: adapters_pb2.ImportAdapterResponse(adapter=ADAPTER)]
    Path(name).write_bytes(b"adapter")
    shown = run("generate", "a cat", "--adapter", name)
    assert shown.exit_code == 0, shown.output
    (_, begin), (_, request) = servicer.asked
    assert begin.begin.header.size_bytes == 7
    assert request.adapters[0].adapter == ADAPTER.digest


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["adapters", "import", "nowhere"], "source: nowhere cannot be read: No such file or directory"),
        (["erase", "cat", "nowhere.png"], "images[0]: nowhere.png cannot be read: No such file or directory"),
        (["erase", "cat", "--label", "x"], "--label: got 'x', allowed KEY=VALUE"),
        (
            ["generate", "a cat", "--adapter", "no-cat:much"],
            "--adapter: got the weight 'much', allowed a number in [-2, 2]",
        ),
        (
            ["generate", "a cat", "--adapter-schedule", "0.5"],
            "--adapter-schedule: got '0.5', allowed START:END or START:END:RAMP, shares of the steps",
        ),
        (
            ["generate", "a cat", "--guard-word", "cat"],
            "--guard-word: got one without --guard, allowed together with a scale",
        ),
        (["adapters", "get", "nobody"], "[bold]nobody is not there"),
    ],
)
def test_what_fails_is_one_line_on_stderr(scripted: Server, run: Run, words: list[str], line: str) -> None:
    scripted[0].script["GetAdapter"] = [lambda r, c: failing(c, grpc.StatusCode.NOT_FOUND, "[bold]nobody is not there")]
    failed = run(*words)
    assert (failed.exit_code, failed.stdout, failed.stderr) == (1, "", f"unsee: {line}\n")


def test_a_server_that_is_not_there_is_one_line(run: Run) -> None:
    failed = run("--server", "127.0.0.1:1", "info")
    assert failed.exit_code == 1
    assert len(failed.stderr.splitlines()) == 1
    assert "127.0.0.1:1" in failed.stderr


def test_wrong_usage_has_a_status_of_its_own(run: Run) -> None:
    assert run("generate").exit_code == 2
    assert run("erase", "cat", "--kind", "animal").exit_code == 2


def test_every_command_has_its_help(run: Run) -> None:
    for words in (
        ["erase"],
        ["generate"],
        ["info"],
        *(["adapters", w] for w in ("list", "get", "download", "import", "compose", "delete")),
    ):
        shown = run(*words, "--help")
        assert shown.exit_code == 0
        assert "Usage:" in shown.stdout


def test_completion_can_be_installed() -> None:
    environment = {**os.environ, "_UNSEE_COMPLETE": "complete_bash", "COMP_WORDS": "unsee ad", "COMP_CWORD": "1"}
    code = "from unsee.cli import app; app(prog_name='unsee')"
    shown = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert shown.stdout.split() == ["adapters"]


def test_a_download_is_saved_as_a_whole(scripted: Server, run: Run) -> None:
    servicer, _ = scripted
    servicer.script["GetAdapter"] = [lambda r, c: adapters_pb2.GetAdapterResponse(adapter=ADAPTER)]
    servicer.script["DownloadAdapter"] = [lambda r, c: download_parts(b"0123456789", r.offset)]
    assert run("adapters", "download", "no-cat", "-o", "a.safetensors").stdout == "a.safetensors\n"
    assert [(p.name, p.read_bytes()) for p in Path().iterdir()] == [("a.safetensors", b"0123456789")]


def test_force_replaces_a_folder_that_holds_an_adapter_and_no_other(scripted: Server, run: Run) -> None:
    servicer, _ = scripted
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("adapter_config.json", "new")
        archive.writestr("adapter_model.safetensors", "new")
    servicer.script["GetAdapter"] = [lambda r, c: adapters_pb2.GetAdapterResponse(adapter=ADAPTER)]
    servicer.script["DownloadAdapter"] = [lambda r, c: download_parts(packed.getvalue(), r.offset, 4096)]
    words = ("adapters", "download", "no-cat", "-o", "folder", "--format", "peft")
    Path("folder").mkdir()
    Path("folder/adapter_config.json").write_text("old")
    assert "--force overwrites it" in run(*words).stderr
    assert run(*words, "--force").stdout == "folder\n"
    assert {p.name: p.read_text() for p in Path("folder").iterdir()} == {
        "adapter_config.json": "new",
        "adapter_model.safetensors": "new",
    }
    Path("folder/thesis.txt").write_text("mine")
    assert "allowed a folder that holds nothing but an adapter" in run(*words, "--force").stderr
    assert Path("folder/thesis.txt").read_text() == "mine"
    assert [p.name for p in Path().iterdir()] == ["folder"]


def test_an_interrupt_cancels_the_work_on_the_server(scripted: Server) -> None:
    servicer, target = scripted
    cancelled: list[str] = []

    async def until_cancelled(context: Any) -> None:
        while not cancelled:
            await asyncio.sleep(0.01)
        await failing(context, grpc.StatusCode.CANCELLED)

    def cancel(request: Any, context: Any) -> Any:
        cancelled.append(request.request_id)
        return cancel_pb2.CancelResponse()

    servicer.script["Erase"] = [lambda r, c: [queued(r.request_id), step(9), until_cancelled(c)]]
    servicer.script["Cancel"] = [cancel]
    code = [*COMMAND[:2], f"{HEEDING_INTERRUPTS}\n{COMMAND[2]}"]
    command = subprocess.Popen([*code, "--server", target, "erase", "cat"], stderr=subprocess.PIPE, text=True)
    assert command.stderr is not None
    assert command.stderr.readline() == "erasing cat: train 9/9\n"
    command.send_signal(signal.SIGINT)
    _, errors = command.communicate(timeout=120)
    assert command.returncode == 130
    assert errors.endswith("unsee: interrupted\n")  # rich writes a line again that the signal broke off
    assert "Traceback" not in errors
    assert len(cancelled) == 1


def test_a_terminal_gets_a_bar(scripted: Server) -> None:
    servicer, target = scripted

    async def later(response: Any) -> Any:
        await asyncio.sleep(0.4)
        return response

    servicer.script["Erase"] = [lambda r, c: [queued(r.request_id), step(3), later(completed())]]
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    command = subprocess.Popen(
        [*COMMAND, "--server", target, "erase", "cat"], stderr=theirs, stdout=subprocess.DEVNULL, env=environment
    )
    os.close(theirs)
    shown = b""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            shown += os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
    os.close(ours)
    assert command.wait(120) == 0
    assert "━" in shown.decode()
    assert "3/9" in shown.decode()
    assert "train 3/9\r\n" not in shown.decode()


def test_serve_says_what_to_install_where_the_server_is_missing(tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None\nfrom unsee.cli import main; main()"
    failed = subprocess.run([sys.executable, "-c", code, "serve"], capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert failed.stderr == "unsee: the server is not installed; pip install 'unsee[server]' brings it\n"


def test_pictures_of_a_report_go_into_a_folder_and_nothing_is_overwritten(
    scripted: Server, run: Run, tmp_path: Path
) -> None:
    scripted[0].script["Erase"] = [pictured]
    words = ("erase", "cat", "--report-images", "2", "--report-folder", "seen", "--keep-images")
    shown = run(*words)
    assert shown.exit_code == 0, shown.output
    assert {path.name: path.read_bytes() for path in (tmp_path / "seen").iterdir()} == {
        "0-before.png": b"0", "0-after.png": b"1", "1-before.png": b"2", "1-after.png": b"3",
    }  # fmt: skip
    (_, request) = scripted[0].asked[0]
    assert (request.report_images, request.keep_images) == (2, True)

    refused = run(*words)
    assert refused.exit_code == 1
    assert "--report-folder: " in refused.stderr
    assert "--force overwrites it" in refused.stderr
    assert len(scripted[0].asked) == 1
    (tmp_path / "file").write_text("")
    blocked = run("erase", "cat", "--report-images", "2", "--report-folder", "file")
    assert "--report-folder: file cannot be made" in blocked.stderr
    assert len(scripted[0].asked) == 1
    alone = run("erase", "cat", "--report-folder", "other")
    assert "--report-folder: got one without --report-images" in alone.stderr


def test_kept_pictures_are_saved_and_an_adapter_without_any_is_told(scripted: Server, run: Run, tmp_path: Path) -> None:
    def answers(request: adapters_pb2.GetReportImagesRequest, context: Any) -> list[Any]:
        pictures = [common_pb2.ReportImage(prompt="a dog", with_adapter=side, png=b"png") for side in (False, True)]
        return [adapters_pb2.GetReportImagesResponse(image=one) for one in pictures]

    scripted[0].script["GetReportImages"] = [answers, lambda request, context: []]
    shown = run("adapters", "images", "no-cat", "-o", "kept")
    assert shown.stdout.splitlines() == ["kept/0-before.png  a dog", "kept/0-after.png  a dog"]
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["0-after.png", "0-before.png"]
    assert "no-dog has no pictures" in run("adapters", "images", "no-dog", "-o", "none").stderr


def test_maps_are_shown_in_the_same_order_every_time(scripted: Server, run: Run) -> None:
    report = common_pb2.Report(spelling_ratios={"plural": 0.2, "dropped letter": 0.1})
    adapter = common_pb2.Adapter(settings={"layers": "3", "harden": "0"}, report=report)
    done = erase_pb2.EraseResponse(completed=erase_pb2.EraseCompleted(adapter=adapter))
    scripted[0].script["Erase"] = [lambda request, context: [done]]
    lines = [" ".join(line.split()) for line in run("erase", "cat").stdout.splitlines()]
    for line in ("settings harden 0, layers 3", "labels none", "spelling_ratios dropped letter 0.100, plural 0.200"):
        assert line in lines


def test_integrity_is_shown_with_the_report(scripted: Server, run: Run) -> None:
    integrity = common_pb2.Integrity(
        mean_distance=0.1, max_distance=0.2, worst_prompt="a fox", min_ms_ssim=0.75, prompts=3
    )
    adapter = common_pb2.Adapter(name="no-cat", report=common_pb2.Report(integrity=integrity))
    done = erase_pb2.EraseResponse(completed=erase_pb2.EraseCompleted(adapter=adapter))
    scripted[0].script["Erase"] = [lambda request, context: [done]]
    shown = " ".join(run("erase", "cat").stdout.split())
    assert "distance 0.100, at most 0.200 (a fox); MS-SSIM 0.000, at least 0.750;" in shown
    assert "the concept's 0.000 and 0.000; of 3 prompts" in shown
    integrity.mean_lpips, integrity.max_lpips, integrity.concept_lpips = 0.25, 0.5, 0.75
    done.completed.adapter.report.integrity.CopyFrom(integrity)
    shown = " ".join(run("erase", "cat").stdout.split())
    assert "LPIPS 0.250, at most 0.500, the concept's 0.750; of 3 prompts" in shown
