"""The same question in another form: changes that leave the right answer as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from eval_suites.chat_item import ChatItem

Variant = Callable[[ChatItem], ChatItem]
VARIANTS: Mapping[str, Variant] = {}
