"""An audit that was admitted, done step by step: what the engine turns over."""

from unsee_core.audit.answers import AuditCompleted, AuditEvent, AuditReport
from unsee_core.audit.run import AuditContext, audit
from unsee_core.errors import NotFoundError
from unsee_core.library import AdapterLibrary


class AuditWork:
    """An audit as a sequence of steps.

    Args:
        library: where the report is kept, with the adapter.
        context: all that it works with.
    """

    def __init__(self, library: AdapterLibrary, context: AuditContext) -> None:
        self._library = library
        self._steps = audit(context)
        self.is_done = False

    def step(self) -> AuditEvent:
        """Do one step and return what it led to; AuditCompleted is the last."""
        try:
            return next(self._steps)
        except StopIteration as end:
            self.is_done = True
            return self._kept(end.value)

    def _kept(self, report: AuditReport) -> AuditCompleted:
        try:
            self._library.keep_audit(report)
        except NotFoundError:
            return AuditCompleted(report, is_kept=False)
        return AuditCompleted(report, is_kept=True)
