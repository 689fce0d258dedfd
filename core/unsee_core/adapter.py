"""An adapter: low-rank factors for the text encoder, what they were made of, and their one canonical form in bytes.

The bytes are a safetensors file in diffusers' layout that holds nothing but what request, seed and versions determine,
so that the same adapter is the same bytes and has one digest. The factors stay float32, so that what is stored is what
was trained and reported on: rank 8 in the last two layers of SD 2 is 1.2 MB, rank 4 is 0.6. float16 would be half of
that, and moved embeddings by up to 2.3e-4 where the adapter itself moved them by up to 1.1 (models of 32 px, rank 8).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from unsee_core import layouts, peft_folder
from unsee_core.answers import BaseModel
from unsee_core.checks import check_count, check_range, check_text
from unsee_core.encoder import KEY_PREFIX
from unsee_core.errors import AdapterFormatError, BaseMismatchError, ExportUnsupportedError, InvalidRequestError
from unsee_core.job import MAX_COMPOSED, MAX_SEED, AnchoredConcept, Concept, ConceptKind
from unsee_core.lora import LoraFactors, LoraPair, NormDelta
from unsee_core.pipeline import Pipeline
from unsee_core.scaling import Scaling
from unsee_core.tensor_file import read_object, read_tensors, write_tensors

__all__ = [
    "AdapterMetadata", "LoraFactors", "LoraPair", "NormDelta",
    "check_base", "digest", "export", "from_bytes", "to_bytes",
]  # fmt: skip

FORMAT_VERSION = "1"
_OWN_KEY = "unsee"
_DIFFUSERS_KEY, _DIFFUSERS_PREFIX = "lora_adapter_metadata", "text_encoder."  # where diffusers keeps peft's words
_MAX_UNPACKED_BYTES = 2**30


@dataclass(frozen=True)
class AdapterMetadata:
    """What an adapter was made of; all of it decided by request, seed and versions.

    Attributes:
        concept: None where nobody named one, and of a composed adapter.
        settings: of the method, as text; what takes the concept's place is its "anchor" or, where the method chose it,
            what "stands_in"; of several concepts "anchor 0", "stands_in 1", ...
        concepts: of a composed adapter.
        versions: of the libraries that the factors depend on.
    """

    concept: Concept | None
    method: str
    strength: float
    rank: int
    steps: int
    seed: int
    settings: Mapping[str, str]
    base_model: BaseModel
    versions: Mapping[str, str]
    concepts: tuple[Concept, ...] = ()

    @property
    def erased(self) -> tuple[AnchoredConcept, ...]:
        """All concepts that it erases, each with its anchor."""
        return tuple(map(AnchoredConcept, self._concepts, self._of_each("anchor")))

    @property
    def replaced(self) -> tuple[AnchoredConcept, ...]:
        """Those of them in whose place something is drawn, each with that: its anchor, or what stands in for it."""
        both = zip(self.erased, self._of_each("stands_in"), strict=True)
        return tuple(AnchoredConcept(one.concept, place) for one, noun in both if (place := one.anchor or noun))

    @property
    def _concepts(self) -> tuple[Concept, ...]:
        return self.concepts if self.concept is None else (self.concept,)

    def _of_each(self, setting: str) -> list[str]:
        """Return a setting of each concept, "" where there is none."""
        names = [setting] if self.concept is not None else [f"{setting} {i}" for i in range(len(self.concepts))]
        return [self.settings.get(name, "") for name in names]

    def __post_init__(self) -> None:
        check_count("concepts", len(self.concepts), MAX_COMPOSED)
        if self.concept is not None and self.concepts:
            raise InvalidRequestError.of("concepts", f"got {len(self.concepts)} beside a concept, allowed 0")
        check_text("method", self.method, shortest=0, longest=64)
        check_range("strength", self.strength, -1e6, 1e6)
        check_range("rank", self.rank, 0, layouts.MAX_RANK)
        check_range("steps", self.steps, 0, 2**31 - 1)
        check_range("seed", self.seed, 0, MAX_SEED)
        for texts in (self.settings, vars(self.base_model), self.versions):
            for name, value in texts.items():
                check_text("metadata", name, shortest=0, longest=256)
                check_text(name, value, shortest=0, longest=1000)


def to_bytes(factors: LoraFactors, metadata: AdapterMetadata) -> bytes:
    """Return the canonical bytes: same factors and metadata, same bytes."""
    texts = _texts(metadata)
    if len({pair.rank for pair in factors.pairs.values()}) > 1:  # which diffusers before 0.42 scales wrongly untold
        told = {_DIFFUSERS_PREFIX + name: value for name, value in peft_folder.scales(factors).items()}
        texts[_DIFFUSERS_KEY] = json.dumps(told, sort_keys=True, separators=(",", ":"))
    return write_tensors(layouts.to_diffusers(factors), texts)


def from_bytes(data: bytes, *, max_bytes: int | None = None) -> tuple[LoraFactors, AdapterMetadata | None]:
    """Read an adapter that nobody vouches for, in any of the three layouts, told from its keys.

    Args:
        data: a safetensors file in diffusers', peft's or kohya's layout, or a zip of peft's folder.
        max_bytes: refused above, packed or unpacked; None: no limit for bytes that are already stored.

    Returns:
        The factors in float32, and the metadata; None where another program wrote the file.

    Raises:
        AdapterFormatError: no safetensors, unknown keys, unfitting shapes, numbers that are not finite.
    """
    if max_bytes is not None and len(data) > max_bytes:
        raise AdapterFormatError(f"adapter: got {len(data)} bytes, allowed {max_bytes}")
    scaling = None
    if data.startswith(peft_folder.ZIP_MAGIC):
        data, config = peft_folder.unpack(data, max_bytes=max_bytes or _MAX_UNPACKED_BYTES)
        scaling = Scaling.from_config(config)
    tensors, texts = read_tensors(data)
    if _DIFFUSERS_KEY in texts:
        scaling = _diffusers_scaling(texts[_DIFFUSERS_KEY]) or scaling
    factors = layouts.from_tensors(tensors, scaling)
    return factors, _metadata(texts[_OWN_KEY]) if _OWN_KEY in texts else None


def digest(data: bytes) -> str:
    """Return ``sha256:`` and the hex digest of the bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def export(data: bytes, layout: Literal["diffusers", "peft", "kohya"]) -> bytes:
    """Return a stored adapter in another layout; ``from_bytes`` reads the same adapter from it.

    Raises:
        ExportUnsupportedError: it changes the final layer norm, which the layout cannot hold.
    """
    if layout == "diffusers":
        return data
    factors, metadata = from_bytes(data)
    if factors.final_norm is not None:
        raise ExportUnsupportedError(
            f"format: the layout {layout!r} cannot hold the change of the final layer norm that this adapter was "
            "trained with; allowed: diffusers (which draws without that change), or erase without train_final_norm"
        )
    texts = _texts(metadata) if metadata else {"format": "pt"}
    if layout == "kohya":
        return write_tensors(layouts.to_kohya(factors), texts | {"ss_base_model_version": "sd_v2"})
    base_model = metadata.base_model.name if metadata else ""
    return peft_folder.pack(write_tensors(layouts.to_peft(factors), texts), factors, base_model)


def check_base(factors: LoraFactors, metadata: AdapterMetadata | None, pipeline: Pipeline) -> bool:
    """Return True if the adapter was made on a text encoder with another digest, or does not say on which.

    Raises:
        BaseMismatchError: another tokenizer, or modules and shapes that this encoder lacks.
    """
    named = pipeline.text_encoder.named_parameters()
    shapes = {KEY_PREFIX + name.removeprefix(KEY_PREFIX): tuple(weight.shape) for name, weight in named}
    for path, pair in factors.pairs.items():
        given, needed = (len(pair.b), pair.a.shape[1]), shapes.get(f"{path}.weight")
        if given != needed:
            raise BaseMismatchError(
                f"adapter: {path} has the shape {given}, allowed {needed or 'none: no such module'}"
            )
    norm = factors.final_norm
    if norm is not None and norm.weight.shape != (pipeline.encoder_width,):
        raise BaseMismatchError(
            f"adapter: the final norm has {len(norm.weight)} values, allowed {pipeline.encoder_width}"
        )
    if metadata is None:
        return True
    made_on, here = metadata.base_model, pipeline.digests
    if made_on.tokenizer_digest != here.tokenizer:
        raise BaseMismatchError(
            f"adapter: made for the tokenizer {made_on.tokenizer_digest or 'of no name'}, allowed {here.tokenizer}"
        )
    return made_on.text_encoder_digest != here.text_encoder


def _texts(metadata: AdapterMetadata) -> dict[str, str]:
    content = {"version": FORMAT_VERSION, **asdict(metadata)}
    if not metadata.concepts:
        del content["concepts"]  # so that other adapters are the bytes that they were before there were any composed
    return {"format": "pt", _OWN_KEY: json.dumps(content, sort_keys=True, separators=(",", ":"))}


def _metadata(text: str) -> AdapterMetadata:
    content = read_object(text, "its metadata")
    if content.get("version") != FORMAT_VERSION:
        raise AdapterFormatError(
            f"adapter: its format is {str(content.get('version'))[:40]!r}, allowed {FORMAT_VERSION!r}"
        )
    try:
        return AdapterMetadata(
            concept=None if content["concept"] is None else _concept(content["concept"]),
            method=str(content["method"]),
            strength=float(content["strength"]),
            rank=int(content["rank"]),
            steps=int(content["steps"]),
            seed=int(content["seed"]),
            settings=_text_items(content["settings"]),
            base_model=BaseModel(**_text_items(content["base_model"])),
            versions=_text_items(content["versions"]),
            concepts=tuple(map(_concept, content.get("concepts", ()))),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, InvalidRequestError) as error:
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise AdapterFormatError(f"adapter: its metadata are not what this program writes: {reason}") from error


def _text_items(content: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in content.items()}


def _concept(content: Mapping[str, Any]) -> Concept:
    if content["kind"] not in get_args(ConceptKind):
        raise ValueError(f"kind {str(content['kind'])[:40]!r}, allowed {', '.join(get_args(ConceptKind))}")
    return Concept(content["name"], tuple(content["synonyms"]), content["kind"])


def _diffusers_scaling(text: str) -> Scaling | None:
    """Return what diffusers wrote about the text encoder beside the tensors; None where it wrote nothing."""
    words = read_object(text, _DIFFUSERS_KEY)
    config = {
        key.removeprefix(_DIFFUSERS_PREFIX): value for key, value in words.items() if key.startswith(_DIFFUSERS_PREFIX)
    }
    return Scaling.from_config(config) if config else None
