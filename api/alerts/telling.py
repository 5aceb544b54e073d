"""What follows upon evaluations: inhibition, routing, and delivery by this process while it leads."""

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import Connection, Engine

from api.alerts import configured, inhibition, routing
from api.alerts.configuration import Configuration
from api.alerts.delivery import Deliverer
from api.alerts.rule import Rule
from gigawatch.settings import Alerts


class Telling:
    """The way from alerts to targets, by the leader.

    Args:
        engine: of the store's owner.
        settings: of alerts.

    Raises:
        GigawatchError: an entry of alerts.allow_targets is none.
    """

    def __init__(self, engine: Engine, settings: Alerts) -> None:
        self._external_url = settings.external_url
        self._configuration: Configuration | None = None
        self._deliverer = Deliverer(engine, settings)

    def start(self) -> None:
        """Begin to deliver."""
        self._deliverer.start()

    def stop(self) -> None:
        """End, also amid an attempt, which the next leader makes again."""
        self._deliverer.stop()

    def reload(self, connection: Connection) -> None:
        """Read the configuration that is in force now."""
        self._configuration = configured.in_force(connection).configuration
        self._deliverer.reload(self._configuration)

    def route(self, connection: Connection, rules: Mapping[str, Rule], now: datetime, *, changed: bool) -> int:
        """Find out who is to be told of what, and put out what is due.

        Args:
            connection: of the store's owner, in the caller's transaction.
            rules: those in force.
            now: the time.
            changed: whether alerts, silences or the configuration are other than the last time.

        Returns:
            Notifications that were put out: wake() once the transaction is over.
        """
        if self._configuration is None:
            # It is not read yet: that is not one without routes, which would forget what was told.
            return 0
        if changed:
            inhibition.apply(connection, rules)
        elif not routing.is_due(connection, now):
            return 0
        return routing.route(connection, self._configuration, rules, now, self._external_url)

    def wake(self) -> None:
        """Deliver what was put out, or what somebody wants to be sent."""
        self._deliverer.wake()
