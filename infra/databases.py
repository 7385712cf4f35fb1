"""SQL databases by URL: the driver is named before anything runs, and an idle connection is no error."""

from __future__ import annotations

import re
from pathlib import Path

from infra.addresses import check_address
from sft_core.errors import ConfigError
from sft_core.masking import masked

SQL = ("sqlite", "postgresql", "mysql", "mssql")
"""What MLflow takes as databases; all other tracking URIs are servers."""
CONNECTIONS = {"pool_pre_ping": True, "pool_recycle": 300}
"""Trials take hours, and servers and firewalls drop connections that are idle: each is tried before it is used, and
none is older than so many seconds."""
ANSWERS_WITHIN_S = 10
"""A database that has not answered by then is not there."""
EXAMPLE = "postgresql+psycopg://user@host/database"


_STATEMENT = re.compile(r"\(raised as a result of [^)]*\) | \[SQL: .*| \(Background on this error at: [^)]*\)")
"""What SQLAlchemy adds to the database's own words."""


def why_not(error: Exception) -> str:
    """What a database, or the migration of its tables, said; in one line, without passwords, as it may be cut."""
    from alembic.util import CommandError  # every command reads this file, and few meet a database

    said = _STATEMENT.sub("", " ".join(str(error).split()))
    hint = " (the tables of another program are there: MLflow and studies need a database each)"
    return masked(said) + (hint if isinstance(error, CommandError) else "")


def is_sql(uri: str) -> bool:
    """Whether a tracking URI names a database and no server."""
    return uri.partition(":")[0].partition("+")[0] in SQL


def try_connection(url: str) -> None:
    """Connect once. MLflow by itself tries ten times within a minute, a wrong password, too.

    Raises:
        SQLAlchemyError: the database does not answer or does not let this user in.
    """
    from sqlalchemy import create_engine, make_url

    waits = {"connect_timeout": ANSWERS_WITHIN_S} if make_url(url).get_backend_name() == "postgresql" else {}
    engine = create_engine(url, connect_args=waits)
    try:
        engine.connect().close()
    finally:
        engine.dispose()


def check_driver(setting: str, url: str) -> None:
    """Say what is missing to reach a database.

    Args:
        setting: where the URL comes from.
        url: SQLAlchemy's.

    Raises:
        ConfigError: it is no URL, its password needs quoting, SQLAlchemy knows no such database, or its driver is not
            installed.
    """
    if "://" not in check_address(setting, url):
        raise ConfigError(f"{setting} {url!r} is not a URL, e.g. {EXAMPLE}; unset it to use the workspace")
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    try:
        parsed = make_url(url)
        parsed.get_dialect().import_dbapi()
    except NoSuchModuleError as error:
        raise ConfigError(f"{setting}: there is no database {parsed.drivername}; give e.g. {EXAMPLE}") from error
    except (ArgumentError, ValueError) as error:  # a port that is no number
        raise ConfigError(f"{setting}: this is not the URL of a database; give e.g. {EXAMPLE}") from error
    except ImportError as error:
        how = (f"pip install 'sft-platform[postgres]' and write {EXAMPLE}" if parsed.get_backend_name() == "postgresql"
               else f"pip install {error.name}, or use PostgreSQL")
        raise ConfigError(f"{setting}: {parsed.drivername} needs the package {error.name}, which is not installed; "
                          f"{how}") from error


def is_absent(uri: str) -> bool:
    """Whether it is a SQLite file that is not there yet."""
    return uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists()
