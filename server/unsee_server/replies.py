"""The core's dataclasses -> the messages that go out; writes protobuf fields and reads none."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from unsee.v1 import adapters_pb2, common_pb2, compose_pb2, erase_pb2, generate_pb2, info_pb2
from unsee_core import answers, job
from unsee_core.lanes import Event
from unsee_core.store import AdapterPage
from unsee_server.choices import FORMATS, IMAGE_FORMATS, KINDS, SCHEDULERS
from unsee_server.replies_report import report_image_message, report_message
from unsee_server.times import duration, timestamp
from unsee_server.transfer import Piece

if TYPE_CHECKING:  # these import torch, which takes longer than opening the ports may
    from unsee_core.library import Format
    from unsee_core.methods import Method, MethodOption
    from unsee_core.pipeline import Pipeline

PHASES: Mapping[answers.Phase, "erase_pb2.ErasePhase.ValueType"] = {
    "prepare": erase_pb2.ERASE_PHASE_PREPARE,
    "train": erase_pb2.ERASE_PHASE_TRAIN,
    "report": erase_pb2.ERASE_PHASE_REPORT,
    "harden": erase_pb2.ERASE_PHASE_HARDEN,
    "draw": erase_pb2.ERASE_PHASE_DRAW,
}
# The last number of each name, as the zero values are none of their own.
_KINDS = {name: common_pb2.ConceptKind.ValueType(number) for number, name in KINDS.items()}
_FORMATS = {name: common_pb2.AdapterFormat.ValueType(number) for number, name in FORMATS.items()}
_IMAGE_FORMATS = {name: generate_pb2.ImageFormat.ValueType(number) for number, name in IMAGE_FORMATS.items()}
_SCHEDULERS = {s.value: generate_pb2.Scheduler.ValueType(number) for number, s in SCHEDULERS.items() if s}


def erase_response(event: Event, request_id: str) -> erase_pb2.EraseResponse:
    """Return the message of an erasure's event."""
    match event:
        case answers.Queued(position):
            return erase_pb2.EraseResponse(queued=erase_pb2.EraseQueued(request_id=request_id, position=position))
        case answers.EraseProgress(phase, step, total, losses, eta_s):
            progress = erase_pb2.EraseProgress(phase=PHASES[phase], step=step, total=total, losses=losses)
            if eta_s is not None:
                progress.eta.CopyFrom(duration(eta_s))
            return erase_pb2.EraseResponse(progress=progress)
        case answers.ReportImage():
            return erase_pb2.EraseResponse(image=report_image_message(event))
        case answers.EraseCompleted(manifest):
            return erase_pb2.EraseResponse(completed=erase_pb2.EraseCompleted(adapter=adapter(manifest)))
        case _:
            raise TypeError(f"{type(event).__name__} is no event of an erasure")


def compose_response(event: Event, request_id: str) -> compose_pb2.ComposeAdaptersResponse:
    """Return the message of a composition's event, which is told as an erasure's is."""
    told = erase_response(event, request_id)
    return compose_pb2.ComposeAdaptersResponse(**{field.name: value for field, value in told.ListFields()})


def generate_response(event: Event, request_id: str) -> generate_pb2.GenerateResponse:
    """Return the message of a generation's event."""
    match event:
        case answers.Queued(position):
            queued = generate_pb2.GenerateQueued(request_id=request_id, position=position)
            return generate_pb2.GenerateResponse(queued=queued)
        case answers.GenerateProgress(step, total, eta_s):
            progress = generate_pb2.GenerateProgress(step=step, total=total)
            if eta_s is not None:
                progress.eta.CopyFrom(duration(eta_s))
            return generate_pb2.GenerateResponse(progress=progress)
        case answers.ImageReady():
            return generate_pb2.GenerateResponse(image=_image(event))
        case answers.GenerateCompleted():
            return generate_pb2.GenerateResponse(completed=_generate_completed(event))
        case _:
            raise TypeError(f"{type(event).__name__} is no event of a generation")


def _image(image: answers.ImageReady) -> generate_pb2.GenerateImage:
    return generate_pb2.GenerateImage(
        index=image.index,
        seed=image.seed,
        format=_IMAGE_FORMATS[image.format],
        width=image.width,
        height=image.height,
        data=image.data,
    )


def _generate_completed(done: answers.GenerateCompleted) -> generate_pb2.GenerateCompleted:
    times = done.timings
    return generate_pb2.GenerateCompleted(
        seeds=done.seeds,
        model_digest=done.model_digest,
        scheduler=_SCHEDULERS.get(done.scheduler_class, generate_pb2.SCHEDULER_UNSPECIFIED),
        scheduler_class=done.scheduler_class,
        dtype=done.dtype,
        adapters=[_resolved(adapter) for adapter in done.adapters],
        prompt_cut_off=done.prompt_cut_off,
        negative_prompt_cut_off=done.negative_prompt_cut_off,
        steps=done.steps,
        guidance_scale=done.guidance_scale,
        width=done.width,
        height=done.height,
        timings=generate_pb2.GenerateTimings(
            queue=duration(times.queue_s),
            encode=duration(times.encode_s),
            denoise=duration(times.denoise_s),
            decode=duration(times.decode_s),
            total=duration(times.total_s),
        ),
        guard=generate_pb2.Guard(scale=done.guard.scale, words=done.guard.words) if done.guard.scale else None,
    )


def _resolved(adapter: answers.ResolvedAdapter) -> generate_pb2.ResolvedAdapter:
    schedule = adapter.schedule
    return generate_pb2.ResolvedAdapter(
        name=adapter.name,
        digest=adapter.digest,
        weight=adapter.weight,
        base_mismatch=adapter.base_mismatch,
        schedule=generate_pb2.AdapterSchedule(**vars(schedule)) if schedule else None,
        gate=adapter.gate,
        acts_on_prompt=adapter.acts_on_prompt,
        acts_on_negative_prompt=adapter.acts_on_negative_prompt,
    )


def adapter(manifest: answers.Manifest) -> common_pb2.Adapter:
    """Return the message of a stored adapter."""
    base = manifest.base_model
    return common_pb2.Adapter(
        name=manifest.name,
        digest=manifest.digest,
        size_bytes=manifest.size_bytes,
        concept=concept_message(manifest.concept) if manifest.concept else common_pb2.Concept(),
        method=manifest.method,
        rank=manifest.rank,
        strength=manifest.strength,
        steps=manifest.steps,
        seed=manifest.seed,
        labels=manifest.labels,
        create_time=timestamp(manifest.create_time),
        base_model=common_pb2.BaseModel(
            name=base.name,
            tokenizer_digest=base.tokenizer_digest,
            text_encoder_digest=base.text_encoder_digest,
            unet_digest=base.unet_digest,
        ),
        base_mismatch=manifest.base_mismatch,
        report=report_message(manifest.report) if manifest.report else None,
        has_final_norm=manifest.has_final_norm,
        concepts=map(concept_message, manifest.concepts),
        settings=manifest.settings,
    )


def concept_message(concept: job.Concept) -> common_pb2.Concept:
    """Return the message of a concept."""
    return common_pb2.Concept(name=concept.name, synonyms=concept.synonyms, kind=_KINDS[concept.kind])


def adapters_page(page: AdapterPage) -> adapters_pb2.ListAdaptersResponse:
    """Return the message of a page of adapters."""
    return adapters_pb2.ListAdaptersResponse(
        adapters=[adapter(manifest) for manifest in page.manifests], next_page_token=page.next_page_token
    )


def download_header(name: str, data: bytes, layout: "Format") -> adapters_pb2.DownloadAdapterResponse:
    """Return the message that opens a download of ``data``."""
    sha256 = f"sha256:{hashlib.sha256(data).hexdigest()}"
    header = adapters_pb2.AdapterHeader(name=name, size_bytes=len(data), sha256=sha256, format=_FORMATS[layout])
    return adapters_pb2.DownloadAdapterResponse(header=header)


def download_chunk(piece: Piece) -> adapters_pb2.DownloadAdapterResponse:
    """Return the message of a piece of a download."""
    chunk = adapters_pb2.AdapterChunk(offset=piece.offset, data=piece.data, crc32=piece.crc32)
    return adapters_pb2.DownloadAdapterResponse(chunk=chunk)


def model_info(pipeline: "Pipeline") -> info_pb2.ModelInfo:
    """Return the message of the resident model."""
    digests = pipeline.digests
    return info_pb2.ModelInfo(
        name=pipeline.name,
        digest=digests.model,
        tokenizer_digest=digests.tokenizer,
        text_encoder_digest=digests.text_encoder,
        unet_digest=digests.unet,
        vae_digest=digests.vae,
        prediction_type=pipeline.prediction_type,
        device=str(pipeline.device),
        dtype=str(pipeline.dtype).removeprefix("torch."),
        default_size=pipeline.default_size,
        size_multiple=pipeline.size_multiple,
        text_encoder_layers=pipeline.encoder_layers,
        text_encoder_width=pipeline.encoder_width,
        max_tokens=pipeline.max_tokens,
        default_guidance_scale=pipeline.default_guidance_scale,
    )


def limits(allowed: job.Limits) -> info_pb2.Limits:
    """Return the message of what the server allows."""
    return info_pb2.Limits(
        max_erase_images=allowed.max_erase_images,
        max_image_bytes=allowed.max_image_bytes,
        max_image_pixels=allowed.max_image_pixels,
        max_num_images=allowed.max_num_images,
        max_size=allowed.max_size,
        max_steps=allowed.max_steps,
        max_adapter_bytes=allowed.max_adapter_bytes,
        max_queue=allowed.max_queue,
    )


def method_info(method: "Method") -> info_pb2.MethodInfo:
    """Return the message of an erasing method."""
    return info_pb2.MethodInfo(
        name=method.name,
        description=method.description,
        source=method.source,
        needs_images=method.needs_images,
        uses_anchor=method.uses_anchor,
        uses_adapters=method.uses_adapters,
        options=[_option_info(option) for option in method.options],
    )


def _option_info(option: "MethodOption") -> info_pb2.OptionInfo:
    return info_pb2.OptionInfo(
        name=option.name,
        type=option.type,
        default_value="" if option.default is None else str(option.default).lower(),
        allowed=option.allowed,
        description=option.description,
    )


def schedulers() -> "Sequence[generate_pb2.Scheduler.ValueType]":
    """Return the schedulers that Generate takes."""
    return list(_SCHEDULERS.values())
