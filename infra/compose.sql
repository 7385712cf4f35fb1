-- What PostgreSQL makes at its first start: a database each, as `sft up` would by SFT_DATABASE_URL.
create database sft_prefect;
create database sft_mlflow;
create database sft_studies;
\connect sft_prefect
create extension pg_trgm;
