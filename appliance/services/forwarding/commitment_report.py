"""Tells scanners what became of the images that they asked about, once all of it is decided."""

from __future__ import annotations

import logging

from appliance.config.schema import Config
from appliance.domain.errors import TryAgain
from appliance.journal import commitments
from appliance.journal.commitments import Commitment, Patience
from appliance.journal.database import Journal
from appliance.network.commitment import report_commitment
from appliance.network.requestor import Peer
from appliance.observe import metrics
from appliance.observe.log import hashed
from appliance.services.looker import LOOK_S

_NEXT_LOOK_SHARE = 0.1  # of how long a scanner has waited already: it waits at most that much longer
_NEXT_LOOK_MINIMUM_S = 1.0
_NEXT_LOOK_MAXIMUM_S = 60.0

_log = logging.getLogger(__name__)


class Reporter:
    """Looks after the commitments that scanners asked for."""

    def __init__(self, config: Config, journal: Journal) -> None:
        self._config = config
        self._journal = journal
        self._duties = config.duties
        self._give_up_s = config.commitment.give_up_h * 3600.0
        self._patience = Patience(config.commitment.unknown_s, self._give_up_s)

    def look(self) -> float:
        """Decide what can be decided and tell what is decided; returns the seconds until the next look.

        Raises:
            TryAgain: the journal cannot be read or written.
        """
        with self._journal.read() as connection:
            requested = commitments.due(connection, "requested")
        for commitment in requested:
            self._decide(commitment)
        with self._journal.read() as connection:
            ready = commitments.due(connection, "ready")
        silent: set[str] = set()
        for commitment in ready:
            # A scanner that is away is tried once in a round, however much it asked for.
            if commitment.origin.calling_ae_title not in silent and not self._tell(commitment):
                silent.add(commitment.origin.calling_ae_title)
        return LOOK_S

    def _decide(self, commitment: Commitment) -> None:
        with self._journal.read() as connection:
            answers = commitments.verdicts(connection, commitment, self._duties, self._patience)
        with self._journal.write() as connection:
            if answers is not None:
                # Once more, now that nothing can change meanwhile.
                answers = commitments.verdicts(connection, commitment, self._duties, self._patience)
            if answers is None:
                wait_s = commitment.age_s * _NEXT_LOOK_SHARE
                wait_s = min(_NEXT_LOOK_MAXIMUM_S, max(_NEXT_LOOK_MINIMUM_S, wait_s))
                commitments.look_again(connection, commitment, after_s=wait_s)
                return
            commitments.aggregate(connection, commitment, answers)
        failed = sum(1 for failure in answers.values() if failure)
        _log.log(
            logging.WARNING if failed else logging.INFO,
            "commitment_decided",
            extra={**_about(commitment), "instances": len(answers), "failed": failed},
        )

    def _tell(self, commitment: Commitment) -> bool:
        """Tell the scanner; False if it could not be told."""
        with self._journal.read() as connection:
            report, references = commitments.report(connection, commitment)
        try:
            report_commitment(self._peer(commitment), report, references)
        except TryAgain as error:
            metrics.COMMITMENT_REPORTS.labels(result="not_told").inc()
            self._postpone(commitment, str(error))
            return False
        with self._journal.write() as connection:
            commitments.reported(connection, commitment)
        metrics.COMMITMENT_REPORTS.labels(result="failures" if report.failures else "committed").inc()
        _log.info("commitment_told", extra=_about(commitment))
        return True

    def _postpone(self, commitment: Commitment, reason: str) -> None:
        delay_s = self._config.delivery.retry_after_s(commitment.attempts + 1)
        is_over = commitment.age_s >= self._give_up_s
        with self._journal.write() as connection:
            if is_over:
                commitments.expire(connection, commitment, reason)
            else:
                commitments.postpone(connection, commitment, reason, delay_s=delay_s)
        event = "commitment_given_up" if is_over else "commitment_not_told"
        _log.warning(event, extra={**_about(commitment), "error": reason})

    def _peer(self, commitment: Commitment) -> Peer:
        """Where the scanner listens: often another port than it called from, under a title of its own."""
        origin, settings = commitment.origin, self._config.commitment
        listed = settings.report_to.get(origin.calling_ae_title)
        return Peer(
            (listed and listed.ae_title) or origin.calling_ae_title,
            listed.host if listed else origin.address,
            listed.port if listed else settings.report_port,
            origin.called_ae_title,
            self._config.delivery.dimse_timeout_s,
        )


def _about(commitment: Commitment) -> dict[str, str]:
    return {
        "scanner": commitment.origin.calling_ae_title,
        "transaction": hashed(commitment.transaction_uid),
    }
