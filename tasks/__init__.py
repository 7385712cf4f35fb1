"""Prefect tasks: one thin task per stage. Check the mark, call the core, record, return a path."""
