"""Flows, the command line and the shipped configurations. No torch at import time."""
