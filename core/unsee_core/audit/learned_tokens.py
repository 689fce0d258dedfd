"""Learned tokens: textual inversion through the attacked encoder; how many it takes to bring the concept back.

Source: An Image is Worth One Word, arXiv:2208.01618, as an attack in Circumventing Concept Erasure Methods,
arXiv:2308.01508; counted in tokens as in Originality by textual inversion, arXiv:2408.08184.
"""

from collections.abc import Callable, Generator

from unsee_core.audit.answers import AuditProgress
from unsee_core.audit.drawing import Recipe
from unsee_core.audit.target import TEMPLATES, Target, filled
from unsee_core.inversion import Budget, invert
from unsee_core.pseudo_words import placeholder

NAME = "learned_tokens"
PATIENCE = 40
LEAST_GAIN = 0.003
RACE = 40


def of(tokens: int) -> Callable[[Target], Generator[AuditProgress, None, Recipe]]:
    """Return the attack with so many tokens."""
    name = f"{NAME}_{tokens}"

    def run(target: Target) -> Generator[AuditProgress, None, Recipe]:
        """Learn a pseudo-word, yielding after every step."""
        asked = target.budget
        budget = Budget(
            tokens=tokens,
            steps=asked.inversion_steps,
            batch=asked.inversion_batch,
            restarts=asked.restarts,
            patience=PATIENCE,
            least_gain=LEAST_GAIN,
            race=RACE,
        )
        kind = target.concept.kind
        templates = tuple(filled(kind, "{}", i)[i] for i in range(len(TEMPLATES[kind])))
        steps = invert(
            target.pipeline, target.latents, target.encoder, budget, generator=target.generator(), templates=templates
        )
        while True:
            try:
                event = next(steps)
            except StopIteration as end:
                found = end.value
                break
            yield AuditProgress(name, target.side, "search", event.step, event.total, event.loss)
        prompts = target.named(placeholder(0))
        embeddings = target.encoder.encode(prompts[:1], [found.word])
        return Recipe(embeddings, detail=f"{tokens} learned tokens, {found.steps} steps", loss=found.loss)

    return run
