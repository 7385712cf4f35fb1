"""Tool calls as the common chat templates write them: the other direction of `eval_suites.toolcalls`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from eval_suites.scorers.callbodies import Call


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _bare(value: object) -> str:
    """A value without quotes around text, as dialects without types write it."""
    return value if isinstance(value, str) else _json(value)


def _objects(calls: Sequence[Call], arguments: str = "arguments") -> list[dict[str, object]]:
    return [{"name": call.name, arguments: call.arguments} for call in calls]


def _python(call: Call) -> str:
    return f"{call.name}({', '.join(f'{key}={value!r}' for key, value in call.arguments.items())})"


def _xml(call: Call) -> str:
    inside = "".join(f"<parameter={key}>\n{_bare(value)}\n</parameter>\n" for key, value in call.arguments.items())
    return f"<tool_call>\n<function={call.name}>\n{inside}</function>\n</tool_call>"


def _glm(call: Call) -> str:
    inside = "".join(f"<arg_key>{key}</arg_key>\n<arg_value>{_bare(value)}</arg_value>\n"
                     for key, value in call.arguments.items())
    return f"<tool_call>{call.name}\n{inside}</tool_call>"


def _deepseek(calls: Sequence[Call], one: Callable[[Call], str]) -> str:
    return "<｜tool▁calls▁begin｜>" + "\n".join(
        f"<｜tool▁call▁begin｜>{one(call)}<｜tool▁call▁end｜>" for call in calls) + "<｜tool▁calls▁end｜>"


def _harmony(call: Call) -> str:
    return f"<|start|>assistant<|channel|>commentary to=functions.{call.name} <|constrain|>json<|message|>" \
           f"{_json(call.arguments)}<|call|>"


def _gemma_value(value: object) -> str:
    if isinstance(value, str):
        return f"<escape>{value}<escape>"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_gemma_value(one)}" for key, one in value.items()) + "}"
    return f"[{','.join(map(_gemma_value, value))}]" if isinstance(value, list) else _json(value)


def _function_gemma(call: Call) -> str:
    return f"<start_function_call>call:{call.name}{_gemma_value(call.arguments)}<end_function_call>"


DIALECTS: dict[str, tuple[str, Callable[[Sequence[Call]], str]]] = {
    "hermes": ("hermes", lambda calls: "\n".join(f"<tool_call>\n{_json(o)}\n</tool_call>" for o in _objects(calls))),
    "qwen3-coder": ("xml", lambda calls: "\n".join(map(_xml, calls))),
    "llama-function": ("xml", lambda calls: "".join(f"<function={c.name}>{_json(c.arguments)}</function>"
                                                    for c in calls)),
    "glm": ("glm", lambda calls: "\n".join(map(_glm, calls))),
    "mistral": ("mistral", lambda calls: f"[TOOL_CALLS]{_json(_objects(calls))}"),
    "mistral-args": ("mistral", lambda calls: "".join(f"[TOOL_CALLS]{c.name}[ARGS]{_json(c.arguments)}"
                                                      for c in calls)),
    "deepseek-v3": ("deepseek", lambda calls: _deepseek(
        calls, lambda c: f"function<｜tool▁sep｜>{c.name}\n```json\n{_json(c.arguments)}\n```")),
    "deepseek-v3.1": ("deepseek", lambda calls: _deepseek(
        calls, lambda c: f"{c.name}<｜tool▁sep｜>{_json(c.arguments)}")),
    "harmony": ("harmony", lambda calls: "".join(map(_harmony, calls))),
    "llama-3.1": ("llama", lambda calls: "<|python_tag|>" + "; ".join(map(_json, _objects(calls, "parameters")))),
    "llama-3.2-json": ("json", lambda calls: "\n".join(map(_json, _objects(calls, "parameters")))),
    "json-list": ("json", lambda calls: _json(_objects(calls))),
    "json-fence": ("json", lambda calls: f"```json\n{_json(_objects(calls))}\n```"),
    "openai": ("json", lambda calls: _json([
        {"type": "function", "function": {"name": c.name, "arguments": _json(c.arguments)}} for c in calls])),
    "openai-message": ("json", lambda calls: _json({"role": "assistant", "content": None, "tool_calls": [
        {"id": "1", "type": "function", "function": {"name": c.name, "arguments": _json(c.arguments)}}
        for c in calls]})),
    "phi-4-mini": ("phi", lambda calls: f"<|tool_call|>{_json(_objects(calls))}<|/tool_call|>"),
    "granite-3": ("phi", lambda calls: f"<|tool_call|>{_json(_objects(calls))}"),
    "function-gemma": ("function_gemma", lambda calls: "".join(map(_function_gemma, calls))),
    "pythonic": ("pythonic", lambda calls: f"[{', '.join(map(_python, calls))}]"),
    "gemma": ("gemma", lambda calls: "```tool_code\n" + "\n".join(map(_python, calls)) + "\n```"),
}
"""Template → the dialect it is read as, and how it writes calls."""
