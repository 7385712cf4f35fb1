"""Where the committed checkpoint of the tiny world lies."""

from __future__ import annotations

from pathlib import Path

BASE_FOLDER = Path(__file__).resolve().parent / "base"
"""The base checkpoint: plain-text knowledge of world 0, no chat seen, no chat template."""

RECIPE_NAME = "RECIPE.json"
"""The card inside a built folder: recipe, cost, measured scores, hashes."""
