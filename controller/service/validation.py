"""Pydantic's errors as lines a person can act on.

Owns the wording. One line an error, `where: what`, with the offending key spelled as the
caller spelled it. Must not show values: they may be secrets.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

MAX_LINES = 20


def error_lines(error: ValidationError, model: type[BaseModel] | None = None) -> list[str]:
    """One line an error, at most `MAX_LINES`; `model` lets unknown keys name a near one."""
    lines: list[str] = []
    for detail in error.errors(include_url=False, include_input=False):
        where = ".".join(str(part) for part in detail["loc"])
        what = _sentence(detail, model)
        line = f"{where}: {what}" if where else what
        if line not in lines:
            lines.append(" ".join(line.split()))
    if len(lines) > MAX_LINES:
        lines[MAX_LINES:] = [f"and {len(lines) - MAX_LINES} more"]
    return lines


def _sentence(detail: ErrorDetails, model: type[BaseModel] | None) -> str:
    kind = detail["type"]
    context: dict[str, Any] = detail.get("ctx", {})
    if kind == "extra_forbidden":
        return "is not known" + _suggestion(str(detail["loc"][-1]), model, detail["loc"][:-1])
    limit = _LIMITS.get(kind)
    if limit is not None:
        return limit.format(**context)
    fixed = _FIXED.get(kind)
    if fixed is not None:
        return fixed
    if kind in {"value_error", "assertion_error"}:
        return str(context.get("error", detail["msg"]))
    message = detail["msg"]
    return message[:1].lower() + message[1:]


_LIMITS = {
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be less than {lt}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must have at least {min_length} characters",
    "too_long": "must have at most {max_length} items",
    "too_short": "must have at least {min_length} items",
    "enum": "must be {expected}",
    "literal_error": "must be {expected}",
    "string_pattern_mismatch": "must match {pattern}",
}

_FIXED = {
    "missing": "is required",
    "string_type": "must be a string",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be a table of keys and values",
    "model_attributes_type": "must be a table of keys and values",
}


def _suggestion(key: str, model: type[BaseModel] | None, parents: Iterable[int | str]) -> str:
    for parent in parents:
        model = _inner_model(model, parent)
    if model is None:
        return ""
    near = difflib.get_close_matches(key, list(model.model_fields), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


def _inner_model(model: type[BaseModel] | None, step: int | str) -> type[BaseModel] | None:
    if model is None or isinstance(step, int):
        return model
    field = model.model_fields.get(step)
    if field is None:
        return None
    return _first_model(field.annotation)


def _first_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        found = _first_model(inner)
        if found is not None:
            return found
    return None
