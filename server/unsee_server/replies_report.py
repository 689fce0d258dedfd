"""Messages of what an erasure did."""

from unsee.v1 import common_pb2
from unsee_core import answers
from unsee_server.times import duration


def report_message(report: answers.Report) -> common_pb2.Report:
    """Return the message of a report."""
    return common_pb2.Report(
        concept_drift=_drift(report.concept_drift),
        retain_drift=_drift(report.retain_drift),
        empty_drift=report.empty_drift,
        image_loss_before=report.image_loss_before,
        image_loss_after=report.image_loss_after,
        phase_durations={name: duration(seconds) for name, seconds in report.phase_seconds.items()},
        erase_ratio=report.erase_ratio,
        worst_erase_ratio=report.worst_erase_ratio,
        spelling_ratios=report.spelling_ratios,
        worst_neighbours=(common_pb2.NamedDrift(name=one.name, drift=one.drift) for one in report.worst_neighbours),
        reference_image_loss=report.reference_image_loss,
        warnings=report.warnings,
        concept_ratios=report.concept_ratios,
        integrity=common_pb2.Integrity(**vars(report.integrity)) if report.integrity else None,
    )


def report_image_message(image: answers.ReportImage) -> common_pb2.ReportImage:
    """Return the message of a picture that was drawn for a report."""
    return common_pb2.ReportImage(**vars(image))


def _drift(drift: answers.Drift) -> common_pb2.Drift:
    return common_pb2.Drift(
        p50=drift.p50, p95=drift.p95, max=drift.max, worst_prompt=drift.worst_prompt, prompts=drift.prompts
    )
