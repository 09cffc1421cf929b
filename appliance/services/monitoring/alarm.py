"""The alarm about messages that nobody acknowledges."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable

from prometheus_client.metrics_core import Metric

from appliance.config.schema import Config
from appliance.journal.messages import Unacknowledged, unacknowledged
from appliance.observe import metrics

_log = logging.getLogger(__name__)


class Alarm:
    """Looks at the destinations that are told of findings. Each overdue message is logged once."""

    def __init__(self, config: Config) -> None:
        self._limits_s = {
            name: 60.0 * settings.alarm_after_minutes
            for name, settings in config.message_destinations.items()
        }
        self._logged: set[int] = set()

    def look(self, connection: sqlite3.Connection) -> None:
        """Log what has become overdue."""
        overdue = self._overdue(unacknowledged(connection, self._limits_s))
        for message in overdue:
            if message.delivery_id in self._logged:
                continue
            _log.error(
                "message_unacknowledged",
                extra={
                    "destination": message.destination,
                    "delivery": message.delivery_id,
                    "state": message.state,
                    "minutes": round(message.age_s / 60.0, 1),
                    "attempts": message.attempts,
                    "reason": message.reason,
                },
            )
        self._logged = {message.delivery_id for message in overdue}

    def families(self, connection: sqlite3.Connection) -> list[Metric]:
        """The gauges as of now."""
        waiting = unacknowledged(connection, self._limits_s)
        oldest: dict[tuple[str, ...], float] = {(name,): 0.0 for name in self._limits_s}
        overdue = dict(oldest)
        for message in waiting:
            key = (message.destination,)
            oldest[key] = max(oldest[key], message.age_s)
        for message in self._overdue(waiting):
            overdue[message.destination,] += 1.0
        return [metrics.MESSAGES_OLDEST.family(oldest), metrics.MESSAGES_OVERDUE.family(overdue)]

    def lines(self, connection: sqlite3.Connection) -> list[str]:
        """A sentence for each destination with overdue messages."""
        counts: dict[str, int] = {}
        for message in self._overdue(unacknowledged(connection, self._limits_s)):
            counts[message.destination] = counts.get(message.destination, 0) + 1
        return [f"{name} has not acknowledged {count} messages in time" for name, count in counts.items()]

    def _overdue(self, waiting: Iterable[Unacknowledged]) -> list[Unacknowledged]:
        return [message for message in waiting if message.age_s > self._limits_s[message.destination]]
