"""SFT_DATABASE_URL: one setting, three databases on a real PostgreSQL; a refusal is one sentence without a password."""

from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text

from infra.postgres import databases, make_databases
from infra.settings import own_store, read_settings, shell_environment
from sft_core.errors import ConfigError, OrchestrationError


def plain(url: str, **changes: str) -> str:
    """The URL as a user writes it: of no driver."""
    return make_url(url).set(drivername="postgresql", **changes).render_as_string(hide_password=False)


def test_each_program_has_its_own_with_its_own_driver(tmp_path: Path) -> None:
    url = "postgresql://me:p%2Fw@host:99/team?sslmode=require"
    assert databases(url) == (
        "postgresql+asyncpg://me:p%2Fw@host:99/team_prefect?ssl=require",
        "postgresql+psycopg://me:p%2Fw@host:99/team_mlflow?sslmode=require",
        "postgresql+psycopg://me:p%2Fw@host:99/team_studies?sslmode=require",
    )
    assert databases("postgres://host").studies == "postgresql+psycopg://host/sft_studies"
    given = {"SFT_HOME": str(tmp_path), "SFT_DATABASE_URL": url, "HOME": str(tmp_path)}
    found = read_settings(given)
    assert (found.mlflow_uri, found.study_storage) == databases(url)[1:]
    assert found.mlflow_uri == own_store(tmp_path, url)
    assert "p%2Fw" not in str(shell_environment(found))
    chosen = read_settings({**given, "MLFLOW_TRACKING_URI": "http://h", "SFT_STUDY_STORAGE": "sqlite:////x.db"})
    assert (chosen.mlflow_uri, chosen.study_storage) == ("http://h", "sqlite:////x.db")


def test_a_name_that_would_be_cut() -> None:
    with pytest.raises(ConfigError, match="has 56 characters, .* choose one of at most 55"):
        databases("postgresql://host/" + "x" * 56)


@pytest.mark.parametrize("url", ["mysql://me:s3cr3t@h/db", "sft", "postgresql:///db", "postgresql://me:s3cr3t@h:x/db"])
def test_what_names_no_postgresql(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="SFT_DATABASE_URL.* give e.g. postgresql://user:") as told:
        read_settings({"SFT_HOME": str(tmp_path), "SFT_DATABASE_URL": url})
    assert "s3cr3t" not in str(told.value)


def test_what_is_missing_is_made_once(postgres_url: str) -> None:
    url = plain(postgres_url, database="one")
    make_databases(url)
    make_databases(url)
    with create_engine(databases(url).prefect.replace("asyncpg", "psycopg")).connect() as connection:
        assert connection.execute(text("select count(*) from pg_extension where extname = 'pg_trgm'")).scalar() == 1
    with create_engine(databases(url).studies).connect() as connection:
        connection.execute(text('create role "guest" login password \'guest\''))
        connection.commit()
    guest = plain(postgres_url, username="guest", password="guest", database="theirs")
    with pytest.raises(OrchestrationError, match='not let guest make databases; .*database "theirs_mlflow" owner'):
        make_databases(guest)


@pytest.mark.parametrize(("changes", "said"), [
    ({"password": "wr0ng"}, r"PostgreSQL at 127.0.0.1:\d+ does not let postgres in: .*password authentication failed"),
    ({"port": 9}, "PostgreSQL at 127.0.0.1:9 does not let postgres in: .*[Cc]onnection refused"),
])
def test_a_refusal_is_one_sentence(postgres_url: str, changes: dict[str, str], said: str) -> None:
    with pytest.raises(OrchestrationError, match=said) as told:
        make_databases(plain(postgres_url, database="x", **changes))
    assert "wr0ng" not in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(("given", "wanted"), [("/data/a b", "file:///data/a%20b"), ("s3://bucket/sft", "s3://bucket/sft")])
def test_artifacts_elsewhere(given: str, wanted: str, tmp_path: Path) -> None:
    assert read_settings({"SFT_HOME": str(tmp_path), "SFT_ARTIFACTS": given}).artifacts == wanted
    with pytest.raises(ConfigError, match="SFT_ARTIFACTS=ftp://x is no place for artifacts; set it to a folder or s3://"):
        read_settings({"SFT_HOME": str(tmp_path), "SFT_ARTIFACTS": "ftp://x"})
