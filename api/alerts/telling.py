"""What follows upon evaluations: inhibition, routing, and delivery by this process while it leads."""

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import Connection

from api.alerts.rule import Rule


class Telling:
    """The way from alerts to targets, by the leader."""

    def start(self) -> None:
        """Begin to deliver."""

    def stop(self) -> None:
        """End after the attempts under way."""

    def reload(self, connection: Connection) -> None:
        """Read the configuration that is in force now."""

    def route(self, connection: Connection, rules: Mapping[str, Rule], now: datetime) -> None:
        """Note which alerts others explain, and whom each group of alerts is to be told, and when."""

    def put_out(self, connection: Connection, rules: Mapping[str, Rule], now: datetime) -> int:
        """Put out what is due; how many notifications."""
        return 0

    def wake(self) -> None:
        """Deliver what was put out."""
