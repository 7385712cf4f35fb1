"""One PostgreSQL for everything: a database each for Prefect, MLflow and studies, made where it is missing.

Databases and not schemas of one: MLflow and Optuna both keep the version of their tables in `alembic_version`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

from sft_core.errors import ConfigError, OrchestrationError
from sft_core.masking import masked

if TYPE_CHECKING:
    from sqlalchemy import URL

SETTING = "SFT_DATABASE_URL"
EXAMPLE = "postgresql://user:password@host:5432/sft"
LONGEST_NAME = 63 - len("_prefect")
NOT_ALLOWED = "42501"
"""What PostgreSQL says to a user that may make no databases (SQLSTATE)."""


class Databases(NamedTuple):
    """URLs of the three, each for the driver that its program uses."""

    prefect: str
    mlflow: str
    studies: str

    def __repr__(self) -> str:
        """Without the password."""
        return masked(f"Databases({', '.join(self)})")


def databases(url: str) -> Databases:
    """The three databases that a setting names: those whose names begin with its own.

    Raises:
        ConfigError: it is not the URL of a PostgreSQL.
    """
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  (raises where it is no number)
    except ValueError as error:
        raise ConfigError(f"{SETTING} is no URL, e.g. as its port is no number; give e.g. {EXAMPLE}") from error
    if parts.scheme.partition("+")[0] not in ("postgresql", "postgres") or not parts.hostname:
        raise ConfigError(f"{SETTING}={url} does not name a PostgreSQL; give e.g. {EXAMPLE}, or unset it to use the "
                          "workspace")
    name = parts.path.strip("/") or "sft"
    if len(name) > LONGEST_NAME:
        raise ConfigError(f"{SETTING}: the name {name} has {len(name)} characters, and PostgreSQL would cut those "
                          f"of the three databases; choose one of at most {LONGEST_NAME}")
    for_asyncpg = urlencode([("ssl" if key == "sslmode" else key, value) for key, value in parse_qsl(parts.query)])

    def of(program: str, driver: str, query: str) -> str:
        return parts._replace(scheme=f"postgresql+{driver}", path=f"/{name}_{program}", query=query).geturl()

    return Databases(of("prefect", "asyncpg", for_asyncpg), of("mlflow", "psycopg", parts.query),
                     of("studies", "psycopg", parts.query))


def make_databases(url: str) -> None:
    """Make those that are missing.

    Raises:
        ConfigError: it is no such URL, or its driver is not installed.
        OrchestrationError: PostgreSQL does not answer, lets this user not in, or not make them; with what to do.
    """
    from sqlalchemy import make_url  # settings.py reads this file, and has to be quick
    from sqlalchemy.exc import SQLAlchemyError

    from infra.databases import check_driver, try_connection, why_not

    three = databases(url)
    check_driver(SETTING, three.mlflow)
    given = make_url(three.mlflow)
    where = f"PostgreSQL at {given.host}:{given.port or 5432}"
    maintenance = given.set(database="postgres")
    try:
        try_connection(maintenance.render_as_string(hide_password=False))
    except SQLAlchemyError as error:
        raise OrchestrationError(f"{where} does not let {given.username} in: {why_not(error)}; see that it runs, and "
                                 f"correct {SETTING}") from error
    names = [make_url(one).database or "" for one in three]
    if missing := _make(maintenance, names):
        orders = "; ".join(f'create database "{name}" owner "{given.username}"' for name in missing)
        raise OrchestrationError(f"{where} does not let {given.username} make databases; let an administrator say "
                                 f"there: {orders}")
    try:
        _order(given.set(database=names[0]), "create extension if not exists pg_trgm")
    except SQLAlchemyError as error:
        raise OrchestrationError(f"Prefect needs the extension pg_trgm in the database {names[0]}: {why_not(error)}; "
                                 "install it (Debian: apt install postgresql-contrib) and let an administrator say "
                                 "there: create extension pg_trgm") from error


def _make(server: URL, names: list[str]) -> list[str]:
    """Those of the databases that are missing and cannot be made."""
    from sqlalchemy.exc import ProgrammingError

    there = _order(server, "select datname from pg_database")
    missing = []
    for name in names:
        if name not in there:
            try:
                _order(server, f'create database "{name.replace(chr(34), chr(34) * 2)}"')
            except ProgrammingError as error:
                if getattr(error.orig, "sqlstate", None) != NOT_ALLOWED:
                    raise
                missing.append(name)
    return missing


def _order(server: URL, statement: str) -> list[str]:
    from sqlalchemy import create_engine

    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            done = connection.exec_driver_sql(statement)
            return [str(row[0]) for row in done] if done.returns_rows else []
    finally:
        engine.dispose()
