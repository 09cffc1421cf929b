"""Asks a destination to commit what it has stored. Where its report comes in: `commitment_desk.py`."""

from __future__ import annotations

import logging
import time

from appliance.config.schema import Config
from appliance.domain.commitment import CommitmentReport, CommitmentRequest
from appliance.domain.errors import TryAgain
from appliance.domain.types import Origin
from appliance.journal import transactions
from appliance.journal.database import Journal
from appliance.journal.transactions import Transaction
from appliance.network.commitment import SUCCESS, request_commitment
from appliance.network.requestor import NothingAccepted, peer_of
from appliance.observe import metrics
from appliance.observe.log import hashed
from appliance.services.commitment_desk import CommitmentDesk
from appliance.services.looker import LOOK_S

_MOST_INSTANCES = 500
_SAME_ASSOCIATION_S = 2.0
"""How long a destination may take to report on the association over which it was asked."""
# Statuses (PS3.7 annex C) that will be the same next time: no such instance, SOP class or action; class and
# instance in conflict; SOP class not supported; not authorised; unrecognised operation.
_REFUSALS = frozenset({0x0112, 0x0118, 0x0119, 0x0122, 0x0123, 0x0124, 0x0211})

_log = logging.getLogger(__name__)


class Asker:
    """Gathers what one destination has stored, and asks for it; one transaction at a time is on its way."""

    def __init__(self, name: str, config: Config, journal: Journal, desk: CommitmentDesk) -> None:
        self._name = name
        self._config = config
        self._journal = journal
        self._desk = desk
        self._peer = peer_of(config, name)
        self._unsent: Transaction | None = None  # the destination has not seen it, so its name is still good
        self._gathering_since: float | None = None
        self._failures = 0
        self._not_before = 0.0

    def look(self) -> float:
        """Ask if there is enough to ask about; returns the seconds until the next look.

        Raises:
            TryAgain: the journal cannot be read or written.
        """
        self._expire()
        now = time.monotonic()
        if now < self._not_before:
            return min(LOOK_S, self._not_before - now)
        if self._unsent is None:
            wait_s = self._gather(now)
            if wait_s > 0.0:
                return min(LOOK_S, wait_s)
            with self._journal.write() as connection:
                self._unsent = transactions.make(connection, self._name, limit=_MOST_INSTANCES)
        if self._unsent is not None:
            self._ask(self._unsent)
        return 0.0

    def _expire(self) -> None:
        """Give up waiting for reports that are overdue; what they are about is asked about anew."""
        patience_s = self._config.commitment.report_timeout_h * 3600.0
        with self._journal.read() as connection:
            if not transactions.overdue(connection, self._name, patience_s=patience_s):
                return
        with self._journal.write() as connection:
            overdue = transactions.overdue(connection, self._name, patience_s=patience_s)
            for transaction_id in overdue:
                transactions.expire(connection, transaction_id, delay_s=0.0)
        _log.warning("commitment_report_missing", extra={"destination": self._name, "requests": len(overdue)})

    def _gather(self, now: float) -> float:
        """Seconds to wait, so that a series makes few transactions; 0 if there is enough."""
        with self._journal.read() as connection:
            due = transactions.due(connection, self._name, limit=_MOST_INSTANCES)
        if due == 0:
            self._gathering_since = None
            return LOOK_S
        if self._gathering_since is None:
            self._gathering_since = now
        wait_s = self._gathering_since + self._config.commitment.gather_s - now
        if due < _MOST_INSTANCES and wait_s > 0.0:
            return wait_s
        self._gathering_since = None
        return 0.0

    def _ask(self, transaction: Transaction) -> None:
        request = CommitmentRequest(transaction.transaction_uid, transaction.references)
        status, error = None, "no answer"
        try:
            status = request_commitment(self._peer, request, self._reported, patience_s=_SAME_ASSOCIATION_S)
        except NothingAccepted as refusal:
            answer, error = "refused", str(refusal)
        except TryAgain as trouble:
            answer, error = "unreachable", str(trouble)
        else:
            answer = "failed"
            if status is not None:
                answer = "accepted" if status == SUCCESS else "refused" if status in _REFUSALS else "failed"
                error = f"0x{status:04X}"
            self._unsent = None
            with self._journal.write() as connection:
                if answer == "accepted":
                    transactions.asked(connection, transaction)
                else:
                    transactions.expire(connection, transaction.id, delay_s=0.0)
        metrics.COMMITMENT_REQUESTS.labels(destination=self._name, answer=answer).inc()
        self._note(transaction, answer, error)

    def _note(self, transaction: Transaction, answer: str, error: str) -> None:
        about = {
            "destination": self._name,
            "transaction": hashed(transaction.transaction_uid),
            "instances": len(transaction.references),
        }
        if answer == "accepted":
            self._failures = 0
            _log.info("commitment_asked", extra=about)
            return
        self._failures += 1
        delivery = self._config.delivery
        fast, slow = delivery.retry_after_s(self._failures), delivery.retry_maximum_s
        self._not_before = time.monotonic() + (slow if answer == "refused" else fast)
        _log.warning(f"commitment_{answer}", extra={**about, "error": error})

    def _reported(self, report: CommitmentReport) -> None:
        """A report over the association over which the destination was asked."""
        self._desk.reported(report, Origin(self._peer.ae_title, self._peer.calling_ae_title, self._peer.host))
