"""Decides who is told of a finding, and spools the messages."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterable

from appliance.config.schema import Config
from appliance.domain.errors import GiveUp
from appliance.domain.types import Artifact, Job
from appliance.journal import messages
from appliance.journal.messages import Message
from appliance.observe import metrics
from appliance.observe.log import hashed
from appliance.results.messages import CannotTell, Written, message_writer
from appliance.results.notification import Notification
from appliance.services.storage import Storage

_log = logging.getLogger(__name__)


class Messenger:
    """Writes the messages of the inference process.

    Raises:
        Misconfigured: a template has mistakes.
    """

    def __init__(self, config: Config, storage: Storage) -> None:
        self._storage = storage
        self._writers = {name: message_writer(config, name) for name in config.message_destinations}

    def messages(
        self, job: Job, told: Notification, destinations: Iterable[str], kinds: Collection[str]
    ) -> list[Message]:
        """The spooled messages that `destinations` are to get; those that get objects instead are left out.

        `kinds` are what the pipeline makes of such an outcome.

        Raises:
            TryAgain: the spool or the journal cannot be used; nothing is left in the spool.
        """
        with self._storage.journal.read() as connection:
            wanted = [
                name
                for name in destinations
                if name in self._writers
                and is_due(told, "message" in kinds, messages.told(connection, job, name))
            ]
        spooled: list[Message] = []
        try:
            for name in wanted:
                written = self._write(name, told)
                if written is not None:
                    spooled.append(self._spool(name, written, told))
        except BaseException:
            for message in spooled:
                self._storage.results.remove(message.artifact.spool_key)
            raise
        return spooled

    def _write(self, name: str, told: Notification) -> Written | None:
        try:
            written = self._writers[name](told)
        except CannotTell as error:
            _withheld(name, told, str(error))
            return None
        except GiveUp:
            _withheld(name, told, "unwritable")
            return None
        if written.withheld is not None:
            _withheld(name, told, written.withheld[0])
        return written

    def _spool(self, name: str, written: Written, told: Notification) -> Message:
        content = written.content
        artifact = Artifact(
            kind=written.kind,
            sop_instance_uid=written.uid,
            sop_class_uid=written.sop_class_uid,
            transfer_syntax_uid=written.transfer_syntax_uid,
            study_instance_uid=told.study_instance_uid,
            series_instance_uid=told.series_instance_uid,
            sha256=hashlib.sha256(content).hexdigest(),
            size=len(content),
            spool_key=self._storage.results.put((content,)),
            urgent=True,
        )
        return Message(artifact, name, None if written.withheld is None else written.withheld[1])


def is_due(told: Notification, wanted: bool, last: str | None) -> bool:
    """Whether a destination that was last told the outcome `last` of the series is to be told this one.

    Nothing is told twice. A positive that can wait for days is nobody's alarm (ACR category 3). Whoever was
    told of a positive learns that it is none, wanted or not.
    """
    if told.verdict == last:
        return False
    if told.positive:
        return wanted and told.acts_within != "days"
    return wanted or last == "positive"


def _withheld(name: str, told: Notification, reason: str) -> None:
    metrics.MESSAGES_WITHHELD.labels(destination=name, reason=reason).inc()
    _log.error(
        "message_withheld",
        extra={"destination": name, "series": hashed(told.series_instance_uid), "reason": reason},
    )
