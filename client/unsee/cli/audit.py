"""``unsee audit``, and ``unsee adapters audits``."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from unsee.audit_page import audit_page
from unsee.audits import AuditBudget, AuditEvent, AuditProgress, AuditReport, AuditRow
from unsee.cli.inputs import check_writable
from unsee.cli.where import Force, Json
from unsee.errors import InvalidArgumentError
from unsee.names import ConceptKind
from unsee.terminal import notes, out, print_json, reported_errors


def audit(
    context: typer.Context,
    adapter: Annotated[str, typer.Argument(help="Name or digest of the adapter.")],
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="[IMAGES]...", help="0-16 pictures of what it erases.")
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page with figures and pictures.")] = None,
    concept: Annotated[str | None, typer.Option(help="What to bring back. Default: what the adapter says.")] = None,
    synonym: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Another name for it; may be repeated.")
    ] = None,
    kind: Annotated[ConceptKind, typer.Option(help="What kind of thing --concept is.")] = "object",
    attack: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this attack; may be repeated. Default: all.")
    ] = None,
    tokens: Annotated[
        list[int] | None, typer.Option(help="Learned tokens, 1-16; may be repeated. Default: 1, 2, 5.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Of learning tokens at most. Default: 500.")] = None,
    prompt_steps: Annotated[int | None, typer.Option(help="Of the adversarial prompt. Default: 200.")] = None,
    noise_steps: Annotated[int | None, typer.Option(help="Of the search for noise. Default: 10.")] = None,
    restarts: Annotated[int | None, typer.Option(help="Of both searches for tokens. Default: 3.")] = None,
    pictures: Annotated[int | None, typer.Option(help="That a verdict is taken on. Default: 20.")] = None,
    drawing_steps: Annotated[int | None, typer.Option(help="Of a picture. Default: 8.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="0-50. Default: the server's.")] = None,
    samples: Annotated[int, typer.Option(min=0, help="Pictures of each side that the page of --html shows.")] = 4,
    seed: Annotated[int, typer.Option(help="Same seed and settings, same figures.")] = 0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Try to bring back what an adapter erases, and print how far each attack got."""
    with reported_errors(), context.obj.client() as client:
        check_writable(html, force, option="--html")
        budget = AuditBudget(
            inversion_tokens=tuple(tokens or ()),
            inversion_steps=steps,
            prompt_steps=prompt_steps,
            noise_steps=noise_steps,
            restarts=restarts,
            pictures=pictures,
            drawing_steps=drawing_steps,
        )
        with _shown_audit(adapter, is_quiet=as_json) as on_progress:
            result = client.audit(
                adapter,
                on_progress,
                images=images or [],
                concept=concept,
                synonyms=synonym or [],
                kind=kind,
                attacks=attack or [],
                budget=budget,
                guidance_scale=guidance_scale,
                samples=samples if html else 0,
                seed=seed,
            )
        if not result.is_kept:
            notes.print("the adapter was deleted or replaced meanwhile; the figures are not kept", markup=False)
        if as_json:
            print_json({**asdict(result.report), "is_kept": result.is_kept})
        else:
            _show(result.report)
        if html is not None:
            _write(html, audit_page(result))


def audits(
    context: typer.Context,
    adapter: Annotated[str, typer.Argument(help="Name or digest of the adapter.")],
    as_json: Json = False,
) -> None:
    """Print what audits of an adapter found, the newest last."""
    with reported_errors(), context.obj.client() as client:
        found = client.audits(adapter)
        if as_json:
            print_json([asdict(report) for report in found])
            return
        for i, report in enumerate(found):
            when = report.create_time.strftime("%Y-%m-%d %H:%M UTC")
            head = f"{when}, {report.concept.name!r}, seed {report.seed}, {report.seconds:.0f} s"
            out.print("\n" * bool(i) + head, markup=False, highlight=False, soft_wrap=True)
            _show(report)
        if not found:
            notes.print(f"{adapter} was not audited", markup=False)


def _write(path: Path, page: str) -> None:
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise InvalidArgumentError.of("--html", f"{path} cannot be written: {error.strerror}") from error


@contextmanager
def _shown_audit(adapter: str, *, is_quiet: bool) -> Iterator[Callable[[AuditEvent], None]]:
    """Give what shows events: a line for each finished row, and on a terminal what is being done."""
    waiting = f"auditing {adapter}"
    with notes.status(waiting) if notes.is_terminal and not is_quiet else nullcontext() as status:

        def show(event: AuditEvent) -> None:
            if status is not None and isinstance(event, AuditProgress):
                doing = f"{event.attack}, {event.side}: {event.stage} {event.step}/{event.total}"
                status.update(f"{waiting}: {event.row}/{event.rows}, {doing}")
            elif isinstance(event, AuditRow) and not is_quiet:
                notes.print(f"{waiting}: {_line(event)}", markup=False, highlight=False, soft_wrap=True)

        yield show


def _show(report: AuditReport) -> None:
    for row in report.rows:
        out.print(_line(row), markup=False, highlight=False, soft_wrap=True)
    attacks = report.rows[1:]
    count = f" ({sum(row.counts for row in attacks)} of {len(attacks)} count)"
    found = ", ".join(report.recovered_by) or f"no attack that counts{count}"
    out.print(f"{report.concept.name!r} is brought back by {found}", markup=False, highlight=False, soft_wrap=True)


def _line(row: AuditRow) -> str:
    """Return a row's figures: pictures that show the concept with the adapter, without it, and for the control."""
    sides = (
        f"{outcome.shown}/{outcome.pictures} {said}"
        for outcome, said in ((row.adapter, "with it"), (row.unedited, "without"), (row.control, "control"))
    )
    shown = ", though shown" if row.recovered else ""
    verdict = ("recovered" if row.recovered else "not recovered") if row.counts else f"does not count{shown}"
    return f"{row.attack:<20} {', '.join(sides)}: {verdict}"
