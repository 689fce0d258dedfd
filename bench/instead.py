"""What a model draws where it was asked for a concept that is gone. Run: ``python -m bench.instead``.

A prompt that has lost its only thing names nothing in particular, and a model then draws anything: the concept, too, as
often as chance has it. So the first row is the unedited model, asked for the same without the concept's words, with
seeds of each concept's own; the others are models that a method edited, asked with them. Prompts and seeds are those
with which the quality bench asks for an erased object, by its name and its synonyms. Beside how often the concept is
shown stands how many different objects are, and the share of each concept's commonest: a method that erases a concept
by putting another in its place has few.
Writes ``bench/results/instead.{json,md}``.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench import lines
from bench.asking import asked_of
from bench.budgets import BUDGETS
from bench.drawing import MODEL
from bench.editing import ALL_METHODS, edit, job_of
from bench.eyes import OwnJudge
from bench.gallery import Gallery
from bench.lines import RESULTS
from bench.painting import FAST
from bench.prompts import Question
from bench.seeing import Share
from training.world import OBJECTS, SYNONYMS, with_article
from unsee_core.erase_pairs import pairs_of
from unsee_core.job import Concept
from unsee_core.pipeline import load_pipeline

BUDGET = BUDGETS["small"]
METHODS = ("closed_form", "beyond", "few_shot_lora")
_SEEDS_EACH = 1_000_000
LEFT_OUT = "unedited, without the word"


@dataclass(frozen=True)
class Instead:
    """What the pictures of one concept's prompts show."""

    concept: str
    shown: Mapping[str, int]

    @property
    def pictures(self) -> int:
        """How many there are."""
        return sum(self.shown.values())


def without_word(question: Question) -> Question:
    """Return a question of one object without its name or synonym, and without what its prompt says for its sake.

    What is left is the same for all objects; the seed is not, so that their pictures are different ones.
    """
    (name,) = question.objects
    words = sorted((name, *SYNONYMS.get(name, ())), key=len, reverse=True)
    said = next(word for word in words if with_article(word) in question.text)
    template = question.text.replace(with_article(said), "{a}")
    ((_, rest),) = pairs_of(Concept(said), "", (template,))
    return replace(question, text=" ".join(rest.split()), seed=question.seed + _SEEDS_EACH * OBJECTS.index(name))


def table(found: Mapping[str, Sequence[Instead]]) -> list[str]:
    """Return the table's lines, a row for each way."""
    head = ["| drawn by | shows the concept | different objects | commonest, mean share |", "|---|---|---|---|"]
    for way, ones in found.items():
        share = sum((Share(one.shown.get(one.concept, 0), one.pictures) for one in ones), Share(0, 0))
        low, high = share.wilson()
        different = sum(len(one.shown) for one in ones) / len(ones)
        commonest = sum(max(one.shown.values()) / one.pictures for one in ones) / len(ones)
        told = f"{share.value:.1%} [{low:.1%}, {high:.1%}] of {share.of}"
        head.append(f"| {way} | {told} | {different:.1f} | {commonest:.0%} |")
    return head


def markdown(content: Mapping[str, Any], found: Mapping[str, Sequence[Instead]]) -> str:
    """Return the table, and each concept's commonest objects."""
    text = [
        "# What is drawn instead",
        "",
        f"`{content['command']}`; model {content['model'][:20]}..., {content['sampler']}. Prompts of an erased object "
        "and its synonyms. Brackets: Wilson bounds, 95 %. Different objects, of fifty: the mean over the concepts.",
        "",
        *table(found),
        "",
        "| concept | drawn by | commonest objects |",
        "|---|---|---|",
    ]
    for concept in dict.fromkeys(one.concept for ones in found.values() for one in ones):
        for way, ones in found.items():
            (shown,) = (Counter(one.shown) for one in ones if one.concept == concept)
            said = ", ".join(f"{name} {count}" for name, count in shown.most_common(4))
            text.append(f"| {concept} | {way} | {said} |")
    return "\n".join(text) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Erase, draw, count, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=ALL_METHODS, default=METHODS)
    parser.add_argument("--concepts", nargs="+", choices=OBJECTS, default=BUDGET.objects["held-out"])
    parser.add_argument("--model", default=str(MODEL), help="a folder in Stable Diffusion 2's layout")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)

    pipeline, cache = load_pipeline(options.model, device="cpu"), options.results / "cache" / "unedited.jsonl"
    gallery = Gallery(pipeline, OwnJudge(), replace(FAST, steps=BUDGET.steps), cache)
    found: dict[str, list[Instead]] = {LEFT_OUT: [], **{method: [] for method in options.methods}}
    for name in dict.fromkeys(options.concepts):
        asked = asked_of(name, BUDGET.sizes(name))
        questions = tuple(dict.fromkeys((*asked.erased, *asked.synonyms)))
        sights = {LEFT_OUT: gallery.unedited([*map(without_word, questions)])}
        for method in dict.fromkeys(options.methods):
            model = edit(pipeline, method, job_of(name, method)).model
            sights[method] = [*gallery.compare(model, questions)[1].values()]
        for way, seen in sights.items():
            found[way].append(Instead(name, dict(Counter(sight.object for sight in seen).most_common())))

    content = {
        "command": lines.command("instead", arguments),
        "model": pipeline.digests.model,
        "sampler": gallery.conditions.sampler,
        "shown": {way: {one.concept: one.shown for one in ones} for way, ones in found.items()},
    }
    lines.write_tables(options.results / "instead", content, markdown(content, found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
