"""The attacks by name, cheapest first."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

from unsee_core.audit import (
    adversarial_prompt,
    inverted_latents,
    learned_tokens,
    reconstruction,
    searched_noise,
    wordings,
)
from unsee_core.audit.answers import AuditProgress
from unsee_core.audit.drawing import Recipe
from unsee_core.audit.job import ATTACKS, AuditJob
from unsee_core.audit.target import Target

Run = Callable[[Target], Generator[AuditProgress, None, Recipe]]


@dataclass(frozen=True)
class Attack:
    """An attack under the name of its row."""

    name: str
    run: Run


_RUNS: dict[str, Run] = {
    wordings.NAME: wordings.run,
    reconstruction.NAME: reconstruction.run,
    inverted_latents.NAME: inverted_latents.run,
    searched_noise.NAME: searched_noise.run,
    adversarial_prompt.NAME: adversarial_prompt.run,
}


def attacks_of(job: AuditJob) -> tuple[Attack, ...]:
    """Return what a job asks for, in the order of ``ATTACKS``; learned tokens once for each number of them."""
    return tuple(attack for name in ATTACKS if not job.attacks or name in job.attacks for attack in _named(name, job))


def _named(name: str, job: AuditJob) -> Iterator[Attack]:
    if name == learned_tokens.NAME:
        yield from (Attack(f"{name}_{n}", learned_tokens.of(n)) for n in job.budget.inversion_tokens)
    else:
        yield Attack(name, _RUNS[name])
