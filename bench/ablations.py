"""What each choice in closed_form is worth, and what its report predicts. Run: ``python -m bench.ablations``.

One value is changed at a time around the settled recipe, on objects of the tuning half, erased by their name alone, or
with ``--kind style`` on its look. Every variant on every concept is a line in ``bench/results/ablations.jsonl``, or
``ablations_of_styles.jsonl``; a second run goes on from there. Writes a table after every variant, and how the reports'
figures go with what the pictures show over all lines (Spearman's rho).
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench import lines
from bench.asking import Sizes, asked_of
from bench.budgets import BUDGETS
from bench.drawing import MODEL
from bench.editing import context_of, job_of, settings_of, timed
from bench.eyes import OwnJudge
from bench.gallery import Gallery
from bench.lines import RESULTS
from bench.measures import Measure, measures_of
from bench.painting import FAST, Model
from bench.splits import TUNING_LOOKS
from unsee_core.conditioning import AppliedAdapter
from unsee_core.edit_work import library_versions
from unsee_core.job import OptionValue
from unsee_core.joint_solve import Recipe
from unsee_core.methods import closed_form
from unsee_core.pipeline import load_pipeline
from unsee_core.report import make_report

METHOD = closed_form.METHOD.name
_NO_DIGEST = "sha256:" + "0" * 64


@dataclass(frozen=True)
class Variant:
    """A choice and the value that it is changed to.

    Attributes:
        label: as the table says it.
        recipe: fields of ``Recipe`` that are changed.
        options: of the method that are changed.
        strength: None: chosen by the method.
    """

    label: str
    recipe: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, OptionValue] = field(default_factory=dict)
    strength: float | None = None


@dataclass(frozen=True)
class Study:
    """The variants of one kind of concept.

    Attributes:
        stem: of the files.
        recipe: as settled.
        concepts: of the tuning half.
        sizes: of one erasure.
        shown: the table's columns by what they count.
        variants: its rows.
    """

    stem: str
    recipe: Recipe
    concepts: tuple[str, ...]
    sizes: Sizes
    shown: Mapping[str, str]
    variants: tuple[Variant, ...]


def _variants(
    weighing: Sequence[Variant], of_objects: Sequence[Variant], resisting: Mapping[str, Any]
) -> tuple[Variant, ...]:
    """Return a study's rows.

    Args:
        weighing: how hard it leads and holds.
        of_objects: what only they have.
        resisting: what a recipe changes, besides, with options against attacks.
    """
    prefixes = {**resisting, "prefixes": closed_form.PREFIXES}
    beyond = {**resisting, "beyond": closed_form.BEYOND, "beside": closed_form.BESIDE_BEYOND, "stand_in": False}
    return (
        Variant("as settled"),
        *(Variant(f"last {n} layers", {"layers": n}) for n in (1, 2, 4, 6)),
        *(Variant(f"rank {n}", {"rank": n}) for n in (4, 8, 24)),
        Variant("plain distance, no metric", {"use_metric": False}),
        Variant("only the words led", {"reach": "words"}),
        Variant("words and end led, no padding", {"reach": "end"}),
        *(Variant(f"ridge {x:g}", {"ridge": x}) for x in (1e-4, 3e-2)),
        *weighing,
        *(Variant(f"retain weight {x:g}, at strength 1", {"retain_weight": x}, strength=1.0) for x in (0.02, 0.2)),
        *(Variant(f"beside {n} other things", {"beside": n}) for n in (0, 24, 84)),
        *of_objects,
        *(Variant(f"strength {x:g}", strength=x) for x in (0.25, 0.5, 0.75, 1.5, 2.0)),
        Variant("images too: image_words 2", options={"image_words": 2}),
        Variant("robust rounds: harden 2", options={"harden": 2}),
        Variant("random prefixes", prefixes),
        Variant("beyond", beyond),
        Variant("beyond and random prefixes", {**beyond, **prefixes}),
    )


_GONE = {"erased": "UA", "synonyms": "synonyms"}
_KEPT = {"retained": "IRA", "other_kind": "CRA"}
STUDIES: Mapping[str, Study] = {
    "object": Study(
        stem="ablations",
        recipe=Recipe(),
        concepts=BUDGETS["small"].objects["tuning"],
        sizes=Sizes(erased=20, retained=15, near=15, pairs=10, synonyms=5),
        shown={**_GONE, "retained": "IRA", "near": "near IRA", "other_kind": "CRA", "other_in_pairs": "other of two"},
        variants=_variants(
            [
                *(Variant(f"retain weight {x:g}", {"retain_weight": x}) for x in (2.0, 20.0, 320.0)),
                Variant("strength up to 1.3", {"most_strength": 1.3}),
                Variant("harder, as against attacks", closed_form.HARDER),
            ],
            [
                Variant("every look in three templates", {"in_looks": 3}),
                Variant("nothing stands in, the word is left out", {"stand_in": False}),
                Variant("nothing stands in, and harder, as it is then", {**closed_form.HARDER, "stand_in": False}),
            ],
            closed_form.HARDER,
        ),
    ),
    "style": Study(
        stem="ablations_of_styles",
        recipe=replace(Recipe(), **closed_form.OF_A_STYLE),
        concepts=TUNING_LOOKS,
        sizes=Sizes(erased=120, retained=40, near=0, pairs=0, synonyms=40),
        shown={**_GONE, **_KEPT, "subject": "object kept"},
        variants=_variants(
            [
                *(Variant(f"retain weight {x:g}", {"retain_weight": x}) for x in (2.0, 80.0)),
                *(Variant(f"strength up to {x:g}", {"most_strength": x}) for x in (1.0, 1.3, 1.5)),
                Variant("as an object is weighed", {"retain_weight": Recipe.retain_weight, "most_strength": 1.0}),
            ],
            [],
            {},
        ),
    ),
}


def measure(gallery: Gallery, study: Study, variant: Variant, name: str) -> dict[str, Any]:
    """Return one line: a concept erased by a variant."""
    pipeline = gallery.pipeline
    job = replace(job_of(name, METHOD), options=variant.options, strength=variant.strength)
    context = context_of(pipeline, job, settings_of(pipeline, METHOD, job))
    began = time.perf_counter()
    erasure, _ = timed(closed_form.erase(context, replace(study.recipe, **variant.recipe)))
    seconds = time.perf_counter() - began
    report, _ = timed(make_report(context, erasure.factors))
    asked = asked_of(name, study.sizes)
    model = Model(pipeline, (AppliedAdapter(_NO_DIGEST, erasure.factors, 1.0),))
    counts = measures_of(name, asked, *gallery.compare(model, asked.all()))
    return {
        "variant": variant.label,
        "concept": name,
        "under": under(gallery, study, variant),
        "strength": erasure.strength,
        "seconds": round(seconds, 3),
        "erase_ratio": report.erase_ratio,
        "retain_drift": report.retain_drift.p95,
        "measures": {measure: asdict(count) for measure, count in counts.items()},
    }


def under(gallery: Gallery, study: Study, variant: Variant) -> dict[str, Any]:
    """Return what must be the same for a line to hold, as JSON reads it back."""
    recipe = asdict(replace(study.recipe, **variant.recipe))
    content: dict[str, Any] = json.loads(
        json.dumps({**asdict(gallery.conditions), **recipe, **variant.options, "of": variant.strength})
    )
    return content


def shares(rows: Sequence[Mapping[str, Any]], shown: Collection[str]) -> dict[str, float]:
    """Return measures over some lines: what is gone absolute, what is kept of what the unedited model showed."""
    found = {}
    for name in shown:
        total = sum((Measure(**row["measures"][name]) for row in rows if name in row["measures"]), Measure(0, 0, 0, 0))
        found[name] = total.gone.value if name in _GONE else total.of_unedited
    return found


def correlations(rows: Sequence[Mapping[str, Any]], shown: Collection[str]) -> dict[str, float | None]:
    """Return Spearman's rho of what the report says and what the pictures show, a point a line.

    Beyond a strength of 1 a change goes past its goal: the ratio grows again, and the concept stays gone.
    """
    seen = [shares([row], shown) for row in rows]
    partly = [(row["erase_ratio"], one["erased"]) for row, one in zip(rows, seen, strict=True) if row["strength"] <= 1]
    found = {
        "erase ratio with UA": spearman([row["erase_ratio"] for row in rows], [one["erased"] for one in seen]),
        f"erase ratio with UA, at strengths up to 1 ({len(partly)} of them)": spearman(
            [ratio for ratio, _ in partly], [gone for _, gone in partly]
        ),
    }
    if "near" in shown:
        drifts, lost = [row["retain_drift"] for row in rows], [1 - one["near"] for one in seen]
        found["retain drift with near objects lost"] = spearman(drifts, lost)
    return found


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation; equal values share the mean of their ranks; None where all are equal."""
    if len(set(first)) < 2 or len(set(second)) < 2:
        return None
    return float(np.corrcoef(_ranks(first), _ranks(second))[0, 1])


def _ranks(values: Sequence[float]) -> np.ndarray:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: np.ndarray = (counts.cumsum() - (counts - 1) / 2)[places]
    return ranks


def markdown(study: Study, rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> str:
    """Return the tables."""
    columns = ("choice", *study.shown.values(), "strength", "erase ratio", "drift", "seconds")
    text = [
        "# What each choice in closed_form is worth",
        "",
        f"`{about['command']}`, {about['date']}, {about['machine']}; {about['versions']}; model {about['model']}. "
        f"Tuning half: {', '.join(about['concepts'])}, by name alone; UA rests on {about['pictures']} pictures. One "
        f"value changed at a time around {asdict(study.recipe)}. UA and synonyms: gone, absolute; the others as a "
        "share of the unedited model's. Erase ratio and retain drift (p95) are the report's. Seconds beside whatever "
        f'else the machine did. A row alone: `{about["command"]} --variants "rank 4"`.',
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
    ]
    for label in dict.fromkeys(variant.label for variant in study.variants):
        some = [row for row in rows if row["variant"] == label]
        if some:
            means = [sum(row[name] for row in some) / len(some) for name in ("strength", "erase_ratio", "retain_drift")]
            seconds = sum(row["seconds"] for row in some) / len(some)
            cells = [
                *(f"{share:.1%}" for share in shares(some, study.shown).values()),
                *(f"{mean:.2f}" for mean in means),
            ]
            text.append(f"| {label} | {' | '.join(cells)} | {seconds:.2f} |")
    text += ["", f"Spearman's rho over the {len(rows)} erasures:", ""]
    text += [
        f"- {name}: {'none, as all are equal' if rho is None else f'{rho:.2f}'}" for name, rho in about["rho"].items()
    ]
    return "\n".join(text) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what was not measured yet, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=list(STUDIES), default="object", help="of the concepts")
    parser.add_argument("--concepts", nargs="+", help="default: objects of the small budget's tuning half, or its look")
    parser.add_argument("--variants", nargs="+", metavar="ROW", help="only these rows of the table")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    study = STUDIES[options.kind]
    labels = [variant.label for variant in study.variants]
    if unknown := set(options.variants or ()) - set(labels):
        parser.error(f"--variants: {sorted(unknown)}, allowed with --kind {options.kind}: {labels}")

    pipeline = load_pipeline(str(MODEL), device="cpu")
    sampler = replace(FAST, steps=BUDGETS["small"].steps)
    gallery = Gallery(pipeline, OwnJudge(), sampler, options.results / "cache" / "unedited.jsonl")
    path = options.results / f"{study.stem}.jsonl"
    wanted = {variant.label: under(gallery, study, variant) for variant in study.variants}
    rows = [row for row in lines.read(path) if row["under"] == wanted.get(row["variant"])]
    for variant in (one for one in study.variants if one.label in (options.variants or labels)):
        for name in options.concepts or study.concepts:
            if not any(row["variant"] == variant.label and row["concept"] == name for row in rows):
                rows.append(measure(gallery, study, variant, name))
                lines.append(path, [rows[-1]])
        write(options.results, study, rows, gallery, options.kind)
        print(variant.label, shares([row for row in rows if row["variant"] == variant.label], study.shown), flush=True)
    return 0


def write(results: Path, study: Study, rows: Sequence[Mapping[str, Any]], gallery: Gallery, kind: str) -> None:
    """Write the tables of what is measured so far."""
    about = {
        "command": "python -m bench.ablations" + (f" --kind {kind}" if kind != "object" else ""),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "versions": library_versions(),
        "model": gallery.conditions.model,
        "concepts": list(dict.fromkeys(row["concept"] for row in rows)),
        "pictures": study.sizes.erased * len({row["concept"] for row in rows}),
        "rho": correlations(rows, study.shown),
    }
    (results / f"{study.stem}.json").write_text(json.dumps({**about, "rows": list(rows)}, indent=1) + "\n")
    (results / f"{study.stem}.md").write_text(markdown(study, rows, about), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
