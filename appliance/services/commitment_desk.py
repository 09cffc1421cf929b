"""Storage commitment where it comes in: requests of scanners and reports of destinations.

Both are answered with success once the journal has them for good; the forwarding process does the rest.
"""

from __future__ import annotations

import logging

from appliance.config.schema import Config
from appliance.domain.commitment import CommitmentReport, CommitmentRequest
from appliance.domain.errors import GiveUp
from appliance.domain.types import Origin
from appliance.journal import commitments, transactions
from appliance.journal.database import Journal
from appliance.journal.transactions import Persistence
from appliance.observe import metrics
from appliance.observe.log import hashed
from appliance.observe.process import ring

INVALID_ARGUMENT = 0x0115
NOT_AUTHORISED = 0x0124

_log = logging.getLogger(__name__)


class CommitmentDesk:
    """Takes requests and reports, from any thread."""

    def __init__(self, config: Config) -> None:
        # What is answered with success must survive a power cut.
        self._journal = Journal(config.journal_path, "FULL")
        self._committing = {
            name: one.ae_title for name, one in config.dicom_destinations.items() if one.commitment
        }
        self._run_directory = config.run_directory
        self._persistence = Persistence(config.delivery.retry_after_s, config.commitment.attempts)

    def requested(self, request: CommitmentRequest, origin: Origin) -> None:
        """A scanner wants to know when all of these are safe.

        Raises:
            TryAgain: the journal cannot be written.
            GiveUp: the scanner used the same transaction UID for other instances.
        """
        try:
            with self._journal.write() as connection:
                taken = commitments.request(connection, request, origin)
        finally:
            self._journal.close()
        if not taken:
            raise GiveUp("the transaction UID was used before", status=INVALID_ARGUMENT)
        _log.info(
            "commitment_requested",
            extra={"transaction": hashed(request.transaction_uid), "instances": len(request.references)},
        )
        ring(self._run_directory, "forward")

    def reported(self, report: CommitmentReport, origin: Origin) -> None:
        """A destination says what it has committed.

        Raises:
            TryAgain: the journal cannot be written.
            GiveUp: somebody else was asked.
        """
        try:
            self._take(report, origin.calling_ae_title)
        finally:
            self._journal.close()
        ring(self._run_directory, "forward")

    def _take(self, report: CommitmentReport, ae_title: str) -> None:
        about = {"transaction": hashed(report.transaction_uid)}
        asked = {name for name, title in self._committing.items() if title == ae_title}
        if not asked:
            raise GiveUp("only a destination that is to commit may report", status=NOT_AUTHORISED)
        with self._journal.write() as connection:
            name = transactions.destination_of(connection, report.transaction_uid)
            if name is None:
                # Success all the same (it may be of a journal that was lost), lest it is repeated for ever.
                _log.warning("commitment_report_unknown", extra=about)
                return
            if name not in asked:
                raise GiveUp("the report is not from whom was asked", status=NOT_AUTHORISED)
            answered = transactions.answer(connection, report, self._persistence)
        metrics.COMMITTED.labels(destination=name).inc(answered.committed)
        for reason, count in answered.failures.items():
            word = metrics.commitment_reason(reason)
            metrics.COMMITMENT_FAILURES.labels(destination=name, reason=word).inc(count)
        severity = logging.WARNING if answered.failures else logging.INFO
        reasons = {f"0x{reason:04X}": count for reason, count in answered.failures.items()}
        committed = {"committed": answered.committed, "failures": reasons}
        _log.log(severity, "commitment_reported", extra={**about, "destination": name, **committed})
