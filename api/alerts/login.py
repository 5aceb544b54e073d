"""Where rules run: on connections whose login may do what reports may, so that there is nothing to go back to."""

from typing import Any

import psycopg
import sqlalchemy
from sqlalchemy import Engine, select

from api.alerts.evaluation import EvaluationError
from gigawatch import database
from gigawatch.database import REPORT_ROLE
from gigawatch.schema import rule_login
from gigawatch.settings import Alerts

# Names without a schema are those of report. What a rule's process sends to the client is its answer alone.
_OPTIONS = " -c search_path=report -c idle_in_transaction_session_timeout=60s -c client_min_messages=error"
_MORE = f"""
    SELECT rolname FROM pg_roles
    WHERE rolname = session_user AND (rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls)
        OR rolname NOT IN (session_user, '{REPORT_ROLE}') AND pg_has_role(session_user, oid, 'MEMBER')
    ORDER BY 1 LIMIT 1"""
"""A role beyond the report role whose rights the login has, itself first where it is a superuser or makes roles."""


def rules_engine(owner: Engine, settings: Alerts, *, pool_size: int = 1) -> Engine:
    """An engine on which any SQL may run: it can read schema report, and do nothing else.

    Connecting raises EvaluationError where there is no login, it is refused, or it may do more.

    Args:
        owner: of the store's owner, who knows the login that the migration made.
        settings: another login, and how long a statement may take.
        pool_size: connections kept.
    """
    engine = database.engine(
        settings.rule_database_url or owner.url.render_as_string(hide_password=False),
        pool_size=pool_size,
        statement_timeout_s=settings.rule_timeout_s,
        role=REPORT_ROLE,
        application="gigawatch, rules",
    )

    @sqlalchemy.event.listens_for(engine, "do_connect")
    def connect(_dialect: Any, _record: Any, _arguments: Any, parameters: dict[str, Any]) -> "psycopg.Connection[Any]":
        given = {**parameters, "options": parameters["options"] + _OPTIONS, "prepare_threshold": None}
        if settings.rule_database_url is None:
            with owner.connect() as connection:
                login = connection.execute(select(rule_login.c.role, rule_login.c.password)).one_or_none()
            if login is None:
                raise EvaluationError(
                    "there is no login for rules: run `gigawatch migrate`, whose warning says what a superuser must do"
                )
            given |= {"user": login.role, "password": login.password}
        try:
            driver = psycopg.connect(**given)
        except psycopg.OperationalError as error:
            raise EvaluationError(
                f"the login for rules is refused ({str(error).partition(chr(10))[0]}): see alerts.rule_database_url"
            ) from error
        more = driver.execute(_MORE).fetchone()
        driver.rollback()
        if more is not None:
            driver.close()
            raise EvaluationError(
                f"the login for rules has the rights of {more[0]}: it may have those of {REPORT_ROLE} alone"
            )
        return driver

    return engine
