"""What a Jinja chat template is given besides messages and tools: variables and today's date, written into it.

Everything that renders the template afterwards (training, evaluation, lm-eval, a server) then sees the same.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping

import jinja2.meta
import jinja2.nodes
from pydantic import JsonValue
from transformers.utils.chat_template_utils import _compile_jinja_template

from sft_core.templates.bounds import understood

DIRECTIVES = (*(f"-{one}" for one in "dmHIMSjeklyUWV"), *"aAbBcCdDeFgGhHIjklmMpPrRSTuUVwWxXyYzZ", "n", "t", "%")
"""Of strftime, as glibc has them."""
USUAL = {"messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "bos_token", "eos_token",
         "pad_token", "unk_token", "cls_token", "sep_token", "mask_token"}
"""What every chat template is given by whoever renders it, besides functions."""


def variables_of(jinja: str) -> set[str]:
    """Names that a chat template reads and that nobody gives it as a rule.

    Raises:
        jinja2.TemplateSyntaxError: it is no Jinja.
    """
    environment = _compile_jinja_template("").environment
    tree = environment.parse(jinja)
    with understood():
        undeclared = jinja2.meta.find_undeclared_variables(tree)
    # What it sets in every branch counts as undeclared too; what it has a default for, it asks about first.
    own = {name.name for name in tree.find_all(jinja2.nodes.Name) if name.ctx == "store"}
    asked = {one.node.name for one in tree.find_all((jinja2.nodes.Test, jinja2.nodes.Filter))
             if one.name in ("defined", "undefined", "default", "d") and isinstance(one.node, jinja2.nodes.Name)}
    return undeclared - (own - asked) - USUAL - set(environment.globals)


def with_defaults(jinja: str, given: Mapping[str, JsonValue]) -> str:
    """The template with values for variables that it is not called with."""
    return _before(jinja, "".join(f"{{% if {name} is not defined %}}{{% set {name} = {_literal(value)} %}}{{% endif %}}"
                                  for name, value in given.items()))


def with_date(jinja: str, day: datetime.date) -> str:
    """The template with `strftime_now` telling the beginning of this day; as it is where it does not ask."""
    if "strftime_now" not in jinja:
        return jinja
    moment = datetime.datetime.combine(day, datetime.time())
    told = "".join(f"|replace({f'%{one}'!r}, {moment.strftime(f'%{one}')!r})" for one in DIRECTIVES)
    return _before(jinja, f"{{% macro strftime_now(format) %}}{{{{ format{told} }}}}{{% endmacro %}}")


def _before(jinja: str, blocks: str) -> str:
    """Blocks in front of a template. The line break behind the last is not written (trim_blocks), and the template
    begins on a line of its own, whose leading space does not count (lstrip_blocks)."""
    return f"{blocks}\n{jinja}" if blocks else jinja


def _literal(value: JsonValue) -> str:
    """As Jinja writes it."""
    if value is None:
        return "none"
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(key)}: {_literal(item)}' for key, item in value.items())}}}"
    return json.dumps(value)
