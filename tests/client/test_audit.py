"""Audits in the SDK and on the command line, and the page that one gives."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner, Result

import unsee
from tests.client.audits import HOSTILE, audits, png, report
from tests.client.conftest import failing
from tests.client.test_client import Server
from unsee.audit_reading import audit_report
from unsee.cli import app
from unsee.v1 import adapters_pb2, audit_pb2


def result(**fields: Any) -> unsee.AuditResult:
    pictures = tuple(
        unsee.AuditPicture("name", side, i, 7 + i, shows_concept=i == 0, score=0.25, data=png())
        for side in ("unedited", "adapter", "control")
        for i in range(2)
    )
    return unsee.AuditResult(audit_report(report(**fields)), is_kept=True, pictures=pictures)


def invoke(scripted: Server, *words: str) -> Result:
    return CliRunner().invoke(app, ["--server", scripted[1], "audit", *words])


def test_an_audit_gives_its_events_and_ends_with_report_and_pictures(scripted: Server) -> None:
    servicer, target = scripted
    servicer.script["AuditAdapter"] = [audits]
    events: list[Any] = []
    with unsee.Client(target) as client:
        found = client.audit("no-cat", events.append, images=[png()], samples=2, attacks=["wordings"])
        again = client.attach_audit("mine").result()
    kinds = [type(event).__name__ for event in events]
    assert kinds == ["Queued", "AuditProgress", *["AuditPicture"] * 6, *["AuditRow"] * 5, "AuditResult"]
    assert events[-1] is found
    assert found.report.recovered_by == ("learned_tokens_5",)
    assert [(p.side, p.index) for p in found.pictures[:3]] == [("unedited", 0), ("unedited", 1), ("adapter", 0)]
    assert again.report == found.report
    (_, first), (_, second) = servicer.asked
    assert (first.adapter, list(first.attacks), first.samples, list(first.images)) == (
        "no-cat",
        ["wordings"],
        2,
        [png()],
    )
    assert second == audit_pb2.AuditAdapterRequest(request_id="mine", attach=True)


def test_after_a_broken_stream_nothing_comes_twice(scripted: Server) -> None:
    servicer, target = scripted

    def breaks(request: Any, context: Any) -> list[Any]:
        return [*audits(request, context)[:6], failing(context, grpc.StatusCode.UNAVAILABLE)]

    servicer.script["AuditAdapter"] = [breaks, audits]
    events: list[Any] = []
    with unsee.Client(target) as client:
        found = client.audit("no-cat", events.append, samples=2)
    pictures = [event for event in events if isinstance(event, unsee.AuditPicture)]
    assert len(pictures) == len(set(pictures)) == len(found.pictures) == 6
    assert len([event for event in events if isinstance(event, unsee.AuditRow)]) == 5


def test_what_earlier_audits_found_is_asked_for_by_name(scripted: Server) -> None:
    servicer, target = scripted
    servicer.script["GetAdapter"] = [lambda *_: adapters_pb2.GetAdapterResponse(audits=[report(), report(seed=5)])]
    with unsee.Client(target) as client:
        found = client.audits("no-cat")
    assert [one.seed for one in found] == [0, 5]
    assert found[0] == result().report


async def test_the_asyncio_client_audits_too(scripted: Server) -> None:
    servicer, target = scripted
    servicer.script["AuditAdapter"] = [audits]
    async with unsee.AsyncClient(target) as client:
        found = await client.audit("no-cat")
        job = client.start_audit("no-cat", samples=1)
        kinds = {type(event).__name__ async for event in job}
    assert found.is_kept
    assert "AuditPicture" in kinds


class Seen(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data


def test_the_page_has_every_figure_and_every_picture() -> None:
    seen = Seen(unsee.audit_page(result()))
    assert not seen._open
    assert len([tag for tag, _ in seen.tags if tag == "img"]) == 6
    for said in (
        "Audit of no-cat",
        "12 of 20",
        "17 of 20",
        "5 learned tokens",
        "1 learned token",
        "does not count",
        "dog",
    ):
        assert said in seen.text
    assert "Brought back by 1 of 4 attacks: 5 learned tokens." in seen.text
    assert "How many learned tokens it takes" in seen.text


def test_the_page_loads_nothing_from_elsewhere_and_runs_nothing() -> None:
    page = unsee.audit_page(result())
    seen = Seen(page)
    assert {tag for tag, _ in seen.tags} & {"script", "link", "iframe", "object", "embed", "form", "a"} == set()
    for tag, attributes in seen.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        assert (attributes.get("src") or "data:image/png;base64,").startswith("data:image/png;base64,")
    assert not re.search(r"url\(|@import|https?:", page)


@pytest.mark.parametrize("field", ["adapter", "digest", "control_word", "judged_by", "model_digest", "recovered_by"])
def test_every_text_of_a_report_is_text_on_the_page(field: str) -> None:
    texts = [HOSTILE] if field == "recovered_by" else HOSTILE
    seen = Seen(unsee.audit_page(result(**{field: texts})))
    assert HOSTILE in seen.text
    assert "script" not in {tag for tag, _ in seen.tags}


def test_names_of_attacks_and_concepts_are_text_too() -> None:
    plain = result()
    rows = tuple(replace(row, attack=HOSTILE) for row in plain.report.rows)
    concept = replace(plain.report.concept, name=HOSTILE, synonyms=(HOSTILE,))
    page = unsee.audit_page(replace(plain, report=replace(plain.report, rows=rows, concept=concept)))
    assert "script" not in {tag for tag, _ in Seen(page).tags}


def test_a_page_of_a_concept_that_its_name_brings_back_counts_no_more_attacks_than_there_are() -> None:
    for recovered, said in (
        (["name"], "It is brought back by its own name: it is hardly erased."),
        (
            ["name", "learned_tokens_5"],
            "It is brought back by its own name, as by 1 of 4 attacks: it is hardly erased.",
        ),
    ):
        assert said in Seen(unsee.audit_page(result(recovered_by=recovered))).text


@pytest.mark.parametrize(
    ("counts", "recovered", "verdict", "said"),
    [
        (True, False, "verdict good", "No attack that counts brought it back (4 of 4 count)."),
        (False, False, "verdict", "No attack counts: the budget is too small to say anything."),
        (False, True, "verdict bad", "it shows by what does not count: wordings,"),
    ],
)
def test_a_page_of_an_audit_that_failed_to_undo_says_that_and_no_more(
    counts: bool, recovered: bool, verdict: str, said: str
) -> None:
    plain = result(recovered_by=[])
    rows = tuple(replace(row, counts=counts, recovered=recovered) for row in plain.report.rows[1:])
    seen = Seen(unsee.audit_page(replace(plain, report=replace(plain.report, rows=(plain.report.rows[0], *rows)))))
    assert said in seen.text
    assert "proves no erasure" in seen.text
    assert [attributes["class"] for _, attributes in seen.tags if "verdict" in (attributes.get("class") or "")] == [
        verdict
    ]


def test_the_command_prints_a_line_for_each_attack_and_a_verdict(scripted: Server) -> None:
    scripted[0].script["AuditAdapter"] = [audits]
    shown = invoke(scripted, "no-cat", "--attack", "wordings", "--tokens", "1", "--tokens", "5", "--pictures", "20")
    assert shown.exit_code == 0, shown.output
    assert (
        "wordings             11/20 with it, 12/20 without, 0/20 control: does not count, though shown\n"
        in shown.stdout
    )
    assert "learned_tokens_5     17/20 with it, 20/20 without, 2/20 control: recovered\n" in shown.stdout
    assert shown.stdout.endswith("'cat' is brought back by learned_tokens_5\n")
    assert shown.stderr.startswith("auditing no-cat: name")
    scripted[0].script["GetAdapter"] = [lambda *_: adapters_pb2.GetAdapterResponse(audits=[report(recovered_by=[])])]
    nothing = CliRunner().invoke(app, ["--server", scripted[1], "adapters", "audits", "no-cat"])
    assert nothing.stdout.endswith("'cat' is brought back by no attack that counts (3 of 4 count)\n")
    _, request = scripted[0].asked[0]
    assert (list(request.budget.inversion_tokens), request.budget.pictures, request.samples) == ([1, 5], 20, 0)


def test_the_command_writes_the_page_and_keeps_what_is_there(scripted: Server, tmp_path: Path) -> None:
    scripted[0].script["AuditAdapter"] = [audits]
    path = tmp_path / "audit.html"
    assert invoke(scripted, "no-cat", "--html", str(path)).exit_code == 0
    assert path.read_text(encoding="utf-8").count("data:image/png") == 12
    refused = invoke(scripted, "no-cat", "--html", str(path))
    assert (refused.exit_code, len(scripted[0].asked)) == (1, 1)
    assert refused.stderr == f"unsee: --html: {path} exists; --force overwrites it\n"
    assert invoke(scripted, "no-cat", "--html", str(path), "--force").exit_code == 0
    nowhere = invoke(scripted, "no-cat", "--html", str(tmp_path / "no" / "a.html"))
    assert "there is no such folder" in nowhere.stderr


def test_the_command_gives_the_report_as_json_alone(scripted: Server) -> None:
    scripted[0].script["AuditAdapter"] = [audits]
    shown = invoke(scripted, "no-cat", "--json", "--concept", "cat", "--synonym", "kitten")
    content = json.loads(shown.stdout)
    assert (content["recovered_by"], content["is_kept"]) == (["learned_tokens_5"], True)
    assert content["rows"][1]["adapter"]["shown"] == 11
    assert shown.stderr == ""


def test_stored_audits_are_told_again(scripted: Server) -> None:
    kept = adapters_pb2.GetAdapterResponse(audits=[report(), report(seed=5)])
    answers = [kept, kept, *[adapters_pb2.GetAdapterResponse()] * 2]
    scripted[0].script["GetAdapter"] = [lambda *_, answer=answer: answer for answer in answers]
    command = ["--server", scripted[1], "adapters", "audits", "no-cat"]
    told = CliRunner().invoke(app, command)
    assert told.exit_code == 0, told.output
    assert told.stdout.count("learned_tokens_5     17/20 with it, 20/20 without, 2/20 control: recovered\n") == 2
    assert ", 'cat', seed 5, " in told.stdout
    assert " UTC, " in told.stdout
    assert [one["seed"] for one in json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)] == [0, 5]
    none = CliRunner().invoke(app, command)
    assert (none.stdout, none.stderr) == ("", "no-cat was not audited\n")
    assert json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout) == []


def test_an_attack_that_the_page_does_not_know_is_shown_without_words_on_it() -> None:
    known = result().report
    newer = replace(known, rows=(replace(known.rows[0], attack="of_tomorrow"),))
    text = Seen(unsee.audit_page(replace(result(), report=newer))).text
    assert "of tomorrow" in text
    assert "asked for by its name" not in text
