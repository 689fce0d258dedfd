"""What an audit is asked to do; checks itself before any model is touched."""

from dataclasses import dataclass, field

from unsee_core.checks import check_adapter_ref, check_count, check_range
from unsee_core.errors import InvalidRequestError
from unsee_core.job import MAX_IMAGES, MAX_SEED, Concept

ATTACKS = (
    "wordings", "reconstruction", "inverted_latents", "searched_noise", "adversarial_prompt", "learned_tokens",
)  # fmt: skip
MAX_PICTURES = 64
MAX_AUDIT_SEED = MAX_SEED - 10_000_000


@dataclass(frozen=True)
class AuditBudget:
    """What every attack may spend on each side: the unedited model, the adapter, and the control.

    Attributes:
        inversion_tokens: learned tokens, one attack for each number, each 1-16.
        inversion_steps: of a restart at most, 1-5000.
        inversion_batch: noised pictures a step, 1-64.
        prompt_tokens: adversarial tokens before the concept's prompt, 1-32.
        prompt_steps: of their search, 1-5000.
        noise_steps: of the search for starting noise, 1-500.
        restarts: of the two searches for tokens, 1-16; the best by the attacker's own loss counts.
        pictures: fresh seeds that the verdict is taken on, 1-64.
        drawing_steps: U-Net evaluations of a picture, 4-200.
    """

    inversion_tokens: tuple[int, ...] = (1, 2, 5)
    inversion_steps: int = 500
    inversion_batch: int = 4
    prompt_tokens: int = 5
    prompt_steps: int = 200
    noise_steps: int = 10
    restarts: int = 3
    pictures: int = 20
    drawing_steps: int = 8

    def __post_init__(self) -> None:
        for i, tokens in enumerate(self.inversion_tokens):
            check_range(f"budget.inversion_tokens[{i}]", tokens, 1, 16)
            if tokens in self.inversion_tokens[:i]:
                raise InvalidRequestError.of(f"budget.inversion_tokens[{i}]", f"got {tokens} again, allowed once each")
        check_range("budget.inversion_steps", self.inversion_steps, 1, 5000)
        check_range("budget.inversion_batch", self.inversion_batch, 1, 64)
        check_range("budget.prompt_tokens", self.prompt_tokens, 1, 32)
        check_range("budget.prompt_steps", self.prompt_steps, 1, 5000)
        check_range("budget.noise_steps", self.noise_steps, 1, 500)
        check_range("budget.restarts", self.restarts, 1, 16)
        check_range("budget.pictures", self.pictures, 1, MAX_PICTURES)
        check_range("budget.drawing_steps", self.drawing_steps, 4, 200)


@dataclass(frozen=True)
class AuditJob:
    """An adapter to be attacked.

    Attributes:
        adapter: its name or digest.
        images: encoded pictures of the concept, 0-16; none: pictures that the unedited model draws.
        concept: what to bring back; None: what the adapter says that it erases.
        attacks: of ``ATTACKS``; none: all of them.
        guidance_scale: of the pictures; None: the model's default.
        samples: pictures that are handed out of each side of a row; all are judged.
    """

    adapter: str
    images: tuple[bytes, ...] = field(default=(), repr=False)
    concept: Concept | None = None
    attacks: tuple[str, ...] = ()
    budget: AuditBudget = field(default_factory=AuditBudget)
    guidance_scale: float | None = None
    samples: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        check_adapter_ref("adapter", self.adapter)
        check_count("images", len(self.images), MAX_IMAGES)
        if self.concept is not None and not self.concept.name:
            raise InvalidRequestError.of("concept.name", "got none, allowed 1-200 characters, or no concept")
        for i, name in enumerate(self.attacks):
            if name not in ATTACKS:
                raise InvalidRequestError.of(f"attacks[{i}]", f"got {name[:80]!r}, allowed {', '.join(ATTACKS)}")
            if name in self.attacks[:i]:
                raise InvalidRequestError.of(f"attacks[{i}]", f"got {name!r} a second time, allowed once each")
        if self.guidance_scale is not None:
            check_range("guidance_scale", self.guidance_scale, 0, 50)
        check_range("samples", self.samples, 0, MAX_PICTURES)
        check_range("seed", self.seed, 0, MAX_AUDIT_SEED)
