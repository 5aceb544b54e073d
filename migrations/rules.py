"""What alerts' rules are run by: a login of their own, and the function that runs their SQL within bounds."""

import logging
import secrets

import sqlalchemy
from psycopg import sql
from sqlalchemy import Connection, insert, select, text

from gigawatch.database import REPORT_ROLE
from gigawatch.schema import rule_login

MOST_TEMPORARY = "1GB"
"""That a rule's sorts may lay down on disk."""
log = logging.getLogger(__name__)


def prepare(connection: Connection) -> None:
    """Have the login and the function, however the database came to be."""
    # An error's words may be as long as what is wrong, up to a gigabyte of which the client would make several; and so
    # may be a row. As the function is stable, nothing but a SELECT runs in it, and one alone.
    connection.execute(text("CREATE SCHEMA IF NOT EXISTS rules"))
    connection.execute(text("COMMENT ON SCHEMA rules IS 'Where rules of alerts are run'"))
    connection.execute(text(_ANSWER))
    connection.execute(text(f"GRANT USAGE ON SCHEMA rules TO {REPORT_ROLE}"))
    connection.execute(text("REVOKE ALL ON ALL FUNCTIONS IN SCHEMA rules FROM PUBLIC"))
    connection.execute(text(f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA rules TO {REPORT_ROLE}"))
    superuser = bool(connection.scalar(text("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")))
    if superuser:
        connection.execute(text(_TAKE_AWAY))
    _make_login(connection, superuser=superuser)


def _make_login(connection: Connection, *, superuser: bool) -> None:
    # A copy of a database shares the login with it, and in a restored one it is made again as it was.
    kept = connection.execute(select(rule_login.c.role, rule_login.c.password)).one_or_none()
    role, password = kept or (f"gigawatch_rules_{secrets.token_hex(4)}", secrets.token_urlsafe(32))
    if connection.scalar(text("SELECT to_regrole(:role) IS NOT NULL"), {"role": role}):
        return
    driver = connection.connection.driver_connection
    assert driver is not None
    # The server's log has no use for the password.
    verifier = driver.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
    named = sql.Identifier(role)
    statements = [sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} IN ROLE {}").format(
        named, sql.Literal(verifier), sql.Identifier(REPORT_ROLE)
    )]  # fmt: skip
    if superuser:
        statements += [
            sql.SQL("ALTER ROLE {} SET temp_file_limit = {}").format(named, sql.Literal(MOST_TEMPORARY)),
            # What is wrong with a rule is told of the rule.
            sql.SQL("ALTER ROLE {} SET log_min_messages = fatal").format(named),
        ]
    try:
        with connection.begin_nested():
            for statement in statements:
                connection.execute(text(statement.as_string(driver).replace(":", "\\:")))
    except sqlalchemy.exc.ProgrammingError as error:
        log.warning(
            "The database's user may not make a login for the rules of alerts: %s. They are not evaluated until a"
            " superuser makes one (CREATE ROLE gigawatch_rules LOGIN PASSWORD '…' IN ROLE %s) and the setting"
            " alerts.rule_database_url names it.",
            str(error.orig).partition("\n")[0],
            REPORT_ROLE,
        )
        return
    if kept is None:
        connection.execute(insert(rule_login).values(role=role, password=password))


_ANSWER = """
    CREATE OR REPLACE FUNCTION rules.answer(
        query text, most_bytes bigint, moment timestamptz, numbers double precision[], texts text[]
    ) RETURNS SETOF record LANGUAGE plpgsql STABLE AS $$
    DECLARE
        found record;
        bytes bigint := 0;
    BEGIN
        FOR found IN EXECUTE query USING moment, numbers, texts LOOP
            bytes := bytes + pg_column_size(found);
            IF bytes > most_bytes THEN
                RAISE EXCEPTION 'it gives more than % MiB: let it give fewer or shorter columns', most_bytes >> 20;
            END IF;
            RETURN NEXT found;
        END LOOP;
    EXCEPTION WHEN OTHERS THEN
        RAISE EXCEPTION USING ERRCODE = SQLSTATE, MESSAGE = left(SQLERRM, 1000);
    END $$"""
# Everybody may call them by default: a rule would hold the locks by which our processes agree, end those that run other
# rules, or fill the write-ahead log.
_TAKE_AWAY = """
    DO $$
    DECLARE
        harmful regprocedure;
    BEGIN
        FOR harmful IN
            SELECT oid FROM pg_proc
            WHERE pronamespace = CAST('pg_catalog' AS regnamespace)
                AND (proname ~ 'advisory' OR proname IN
                    ('pg_cancel_backend', 'pg_terminate_backend', 'pg_logical_emit_message'))
                AND has_function_privilege('public', oid, 'EXECUTE')
        LOOP
            EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', harmful);
        END LOOP;
    END $$"""
