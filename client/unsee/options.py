"""What callers may ask besides the main thing; one place for the synchronous and the asyncio client."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from os import PathLike
from typing import TypedDict

from unsee.applying import AdapterRef, Guard
from unsee.audits import AuditBudget
from unsee.images import ImageInput
from unsee.names import ConceptKind, ImageFormat, SchedulerName

AdapterInput = str | tuple[str, float] | AdapterRef


class EraseOptions(TypedDict, total=False):
    """What an erasure takes besides the concept's name; all of it may be left out.

    Attributes:
        images: 1-16 pictures of the concept, each a path, bytes or a PIL image; none where the method allows it.
        synonyms: other names for it.
        kind: "object" (default), "style", "person" or "brand".
        anchor: what takes its place; None: what the method makes of none. Refused by methods that have no use for one.
        retain: prompts that must stay as they are.
        method: by its name in ``server_info()``; None: the server's default.
        strength: in (0, 2]; None: the method's default.
        rank: 1-64; None: the method's default.
        steps: 1-2000; None: the method's default.
        seed: same seed and settings, same bytes; 0 by default.
        name: of the adapter; None: a slug of the concept's name and eight digits of the digest.
        replace: an adapter of this name is replaced; else that is an AlreadyExistsError.
        labels: stored with the adapter.
        options: what only the method reads, by name, as ``server_info()`` lists them; with ``method``.
        adapters_in_force: by name or digest: it is made for the model as they leave it; where the method allows it.
        report_images: prompts, 2-8, that are drawn without and with the adapter: ``ReportImage`` events, and the
            report's integrity. 0 by default: none.
        keep_images: these pictures are stored with the adapter, for ``client.report_images``.
        request_id: of the caller's own; drawn if left out.
    """

    images: Iterable[ImageInput]
    synonyms: Sequence[str]
    kind: ConceptKind
    anchor: str | None
    retain: Sequence[str]
    method: str | None
    strength: float | None
    rank: int | None
    steps: int | None
    seed: int
    name: str | None
    replace: bool
    labels: Mapping[str, str]
    options: Mapping[str, int | float | bool]
    adapters_in_force: Sequence[str]
    report_images: int
    keep_images: bool
    request_id: str | None


class ComposeOptions(TypedDict, total=False):
    """What composing takes besides the adapters; all of it may be left out.

    Attributes:
        retain: prompts that must stay as they are.
        strength: in (0, 2]; None: the most at which held prompts stay.
        name: of the new adapter; None: "composed" and eight digits of the digest.
        replace: an adapter of this name is replaced; else that is an AlreadyExistsError.
        labels: stored with the adapter.
        request_id: of the caller's own; drawn if left out.
    """

    retain: Sequence[str]
    strength: float | None
    name: str | None
    replace: bool
    labels: Mapping[str, str]
    request_id: str | None


class AuditOptions(TypedDict, total=False):
    """What an audit takes besides the adapter; all of it may be left out.

    Attributes:
        images: 0-16 pictures of the concept, each a path, bytes or a PIL image; none: the unedited model draws some.
        concept: what is to be brought back; None: what the adapter says that it erases.
        synonyms: other names for it; with ``concept``.
        kind: what kind of thing it is; with ``concept``; "object" by default.
        attacks: by name, see docs/audit.md; none: all of them.
        budget: what each may spend; None: the server's default.
        guidance_scale: of the pictures, 0-50; None: the server's default.
        samples: pictures that are sent of each side of a row; 4 by default, all are judged.
        seed: same seed and settings, same figures; 0 by default.
        request_id: of the caller's own; drawn if left out.
    """

    images: Iterable[ImageInput]
    concept: str | None
    synonyms: Sequence[str]
    kind: ConceptKind
    attacks: Sequence[str]
    budget: AuditBudget | None
    guidance_scale: float | None
    samples: int | None
    seed: int
    request_id: str | None


class GenerateOptions(TypedDict, total=False):
    """What a generation takes besides the prompt; all of it may be left out.

    Attributes:
        negative_prompt: what to steer away from.
        adapters: names or digests, pairs of one and a weight in [-2, 2], or ``unsee.AdapterRef``s, which may have a
            schedule over the steps and a gate by words.
        guard: a scale, or ``unsee.Guard`` with words of its own: the denoising is steered away from concepts that show
            in it; None: off.
        seed: of the first image, the next has seed + 1; drawn if left out.
        steps: 1-200; 25 by default.
        guidance_scale: 0-50; None: the server's default.
        width: pixels; None: the model's own size.
        height: as width.
        num_images: 1-16.
        scheduler: "ddim", "euler", "euler_ancestral", "dpm_solver_multistep", "unipc", "pndm"; None: the model's own.
        image_format: "png" (default), "jpeg" or "webp".
        no_metadata: PNG files carry no settings.
        request_id: of the caller's own; drawn if left out.
    """

    negative_prompt: str
    adapters: Sequence[AdapterInput]
    guard: Guard | float | None
    seed: int | None
    steps: int | None
    guidance_scale: float | None
    width: int | None
    height: int | None
    num_images: int
    scheduler: SchedulerName | None
    image_format: ImageFormat
    no_metadata: bool
    request_id: str | None


class ListOptions(TypedDict, total=False):
    """Conditions that listed adapters meet, all of them; each may be left out.

    Attributes:
        labels: that an adapter must have, with these values.
        concept: name or synonym, compared without case.
        method: that made it.
        created_after: stored at or after; a datetime with a time zone.
        created_before: stored before.
        page_size: adapters fetched at a time; 0: the server's default.
    """

    labels: Mapping[str, str] | None
    concept: str
    method: str
    created_after: datetime | None
    created_before: datetime | None
    page_size: int


class ImportOptions(TypedDict, total=False):
    """What an import takes besides the adapter; all of it may be left out.

    Attributes:
        name: None: a slug of the concept's name and eight digits of the digest; bytes that are stored keep their name.
        replace: an adapter of this name is replaced.
        labels: stored with it.
        concept: what it erases, where it does not say itself.
        synonyms: other names for that.
        kind: what kind of thing that is; "object" by default.
    """

    name: str | None
    replace: bool
    labels: Mapping[str, str] | None
    concept: str | None
    synonyms: Sequence[str]
    kind: ConceptKind


class ConnectOptions(TypedDict, total=False):
    """How the server is reached besides its address; all of it may be left out.

    Attributes:
        token: bearer token; refused over plaintext to another machine.
        tls: True: TLS with the system's authorities.
        tls_ca: PEM file of the authorities to trust; switches TLS on.
        tls_cert: PEM file of the client's own certificate, for mutual TLS.
        tls_key: PEM file of its key.
    """

    token: str | None
    tls: bool
    tls_ca: str | PathLike[str] | None
    tls_cert: str | PathLike[str] | None
    tls_key: str | PathLike[str] | None
