"""Bounds on what a chat template may take: templates come with models, from people nobody knows.

transformers' sandbox keeps a template from files and from Python, and lets it run for ever. Here it is the same sandbox
with a clock and a ceiling, in the process itself: a text is rendered in 20 µs, a child would take longer to be asked.

* Loops, macros, filters, tests and calls look at the processor time of their thread, so that neither a stopped process
  nor a busy machine counts. What happens between two looks is one operation on values that fit below the ceiling.
* Integers stay short, numbers that filters are given small, and searches from the right short: these take hours in one
  operation.
* The kernel refuses memory beyond the ceiling (RLIMIT_AS) while a text is made, whatever asks for it.

What passes a bound is a TemplateError and not a refusal of one row: such a template is of no use for any. Not
bounded is the comparison of lists that were nested in themselves many times over.
"""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from functools import wraps
from types import BuiltinMethodType, CodeType
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers.utils import chat_template_utils

from sft_core.errors import TemplateError

SECONDS = 5.0
"""Of processor time for one text."""
MEMORY = 512 << 20
"""Bytes of address space for one text, beside what the process has."""
TEXT = 1 << 26
"""Characters of one text."""
SOURCE = 200_000
"""Characters of a template; the longest one known has 40,000."""
_BITS = 4096  # of an integer
_NUMBER = 100_000  # that a filter is given; sizes of ranges have the same bound
_LARGE = 1 << 24  # characters or items that a filter walks over
_SOUGHT = 1000  # characters, where the time is the product of both lengths
_SLOW_METHODS = {"rfind", "rindex", "rpartition", "rsplit"}
_NUMBERED = {"batch", "center", "indent", "round", "slice", "truncate", "wordwrap"}  # filters
_SHORT = {"striptags", "urlize", "wordwrap"}  # filters whose time is not in proportion to their text
_STEPS = 32  # between two looks at the clock
_FRESH_S = 0.2  # for which the size of the process is taken to be what it was


def broken(what: str) -> TemplateError:
    """The error of a template that passes a bound."""
    return TemplateError(f"the chat template {what}, more than any conversation needs, and was stopped; do not use it "
                         "before you have looked at it, or set template.name to a built-in one (chatml, for example)")


class _Ceiling:
    """The memory that the process may have, lowered while any thread renders."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._usual = self._lowered = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        self._looked = -_FRESH_S

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                now = time.monotonic()
                if now - self._looked >= _FRESH_S:
                    self._look()
                    self._looked = now
                resource.setrlimit(resource.RLIMIT_AS, self._lowered)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                resource.setrlimit(resource.RLIMIT_AS, self._usual)

    def _look(self) -> None:
        """Find the limit as it is, and as it is to be while something renders: soft and hard, in bytes."""
        self._usual = self._lowered = soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        try:
            with open("/proc/self/statm", "rb") as file:
                size = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:  # not Linux, which has no such limit either
            return
        given = [one for one in (soft, hard) if one != resource.RLIM_INFINITY]
        self._lowered = (min([size + MEMORY, *given]), hard)


CEILING = _Ceiling()


class BoundedTemplate(jinja2.Template):
    """A template that is bounded whoever renders it."""

    @classmethod
    def _from_namespace(cls, environment: Any, namespace: MutableMapping[str, Any], globals: MutableMapping[str, Any]
                        ) -> jinja2.Template:
        made = super()._from_namespace(environment, namespace, globals)
        root = made.root_render_func

        def bounded(context: Context) -> Iterator[str]:
            environment.begin()
            length = 0
            try:
                with CEILING:
                    for part in root(context):
                        length += len(part)
                        if length > TEXT:
                            raise broken(f"writes more than {TEXT:,} characters")
                        yield part
            except MemoryError:
                raise broken(f"asks for more than {MEMORY >> 20} MiB of memory for one text") from None

        made.root_render_func = bounded
        return made


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox with a clock, which starts anew with every text. Threads that render the same template share it."""

    intercepted_binops = frozenset({"*", "**", "%", "//"})
    template_class = BoundedTemplate

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        del self.globals["lipsum"]
        self.filters.update({name: self._timed(made, name) for name, made in self.filters.items()})
        self.tests.update({name: self._timed(made, name) for name, made in self.tests.items()})
        self.begin()

    def begin(self) -> None:
        """Start the clock anew."""
        self._steps, self._began = _STEPS, -1.0

    @property
    def tick(self) -> bool:
        """True; compiled into the beginning of every loop and macro.

        Raises:
            TemplateError: the time is up.
        """
        self._steps -= 1
        if self._steps <= 0:
            self._look()
        return True

    def _look(self) -> None:
        now = time.thread_time()
        self._steps = _STEPS
        if self._began < 0:
            self._began = now
        elif now - self._began > SECONDS:
            raise broken(f"computes for more than {SECONDS:g} s on one text")

    def _timed(self, made: Any, name: str) -> Callable[..., Any]:
        """A filter or test that ticks; those that take long for large arguments are not given any."""
        longest = _NUMBER if name in _SHORT else _LARGE
        numbered = name in _NUMBERED

        @wraps(made)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self.tick  # noqa: B018
            for one in args:
                if isinstance(one, str | list | tuple) and len(one) > longest:
                    raise broken(f"gives {name} more than {longest:,} characters or items")
            if numbered and any(isinstance(one, int) and abs(one) > _NUMBER for one in (*args, *kwargs.values())):
                raise broken(f"gives {name} a number over {_NUMBER:,}")
            return made(*args, **kwargs)

        return timed

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """As the sandbox calls.

        Raises:
            TemplateError: the time is up, or a search would take long.
        """
        __self.tick  # noqa: B018
        if type(__obj) is BuiltinMethodType and __obj.__name__ in _SLOW_METHODS and any(
                isinstance(one, str) and len(one) > _SOUGHT for one in args):
            raise broken(f"looks for more than {_SOUGHT} characters by {__obj.__name__}")
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """As Python computes.

        Raises:
            TemplateError: with integers that are too long.
        """
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length(), right.bit_length()
            if (bits[0] * abs(right) if operator == "**" else sum(bits)) > _BITS:
                raise broken(f"computes with integers of more than {_BITS} bits")
        return super().call_binop(context, operator, left, right)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        if len(source) > SOURCE:
            raise broken(f"has more than {SOURCE:,} characters itself")
        with understood():
            return super()._parse(source, name, filename)

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        loops: Any = source.find_all((nodes.For, nodes.Macro, nodes.CallBlock))
        for node in loops:
            tick = nodes.EnvironmentAttribute("tick", lineno=node.lineno, environment=self)
            node.body.insert(0, nodes.ExprStmt(tick, lineno=node.lineno, environment=self))
            if isinstance(node, nodes.For) and node.test is not None:
                node.test = nodes.And(tick, node.test, lineno=node.lineno, environment=self)
        self.begin()  # constants are computed here
        with understood():
            return super()._generate(source, *args, **kwargs)

    def _compile(self, source: str, filename: str) -> CodeType:
        with understood():
            return super()._compile(source, filename)


@contextmanager
def understood() -> Iterator[None]:
    """Around what reads a template: below the ceiling, and one that Python cannot read is no Jinja.

    Raises:
        jinja2.TemplateSyntaxError: it is nested too deeply.
        TemplateError: it takes too much memory.
    """
    try:
        with CEILING:
            yield
    except (RecursionError, SyntaxError) as error:
        raise jinja2.TemplateSyntaxError(f"it is nested too deeply ({error})", 1) from None
    except MemoryError:
        raise broken(f"asks for more than {MEMORY >> 20} MiB of memory before anything is rendered") from None


# transformers asks for no environment of one's own: everything that renders a chat template here, lm-eval's models too,
# gets its sandbox by this name.
chat_template_utils.ImmutableSandboxedEnvironment = BoundedEnvironment
