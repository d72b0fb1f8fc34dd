"""From pydantic's errors to ours: every problem of a document at once, by path and value.

Problem: a user who corrects one field an hour learns of the next one an hour later. Invariant: the checks of
single fields and the checks across fields both run over the whole document, whatever failed before; the second
kind never reports a path that the first kind has reported already.
"""

import difflib
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sluice.errors import Problem, ProblemsError

CROSS: Final = "sluice_cross"  # pydantic's error type of our checks across fields; reported by themselves

M = TypeVar("M", bound=BaseModel)

_WANTED: Final = {
    "missing": "required, but missing",
    "string_type": "a text is wanted; put it in quotes if it looks like a number",
    "int_type": "a whole number is wanted",
    "int_from_float": "a whole number is wanted",
    "float_type": "a number is wanted",
    "bool_type": "true or false is wanted",
    "finite_number": "a finite number is wanted",
    "tuple_type": "a list is wanted",
    "dict_type": "a mapping is wanted",
    "model_type": "a mapping is wanted",
    "dataclass_type": "a mapping is wanted",
    "none_required": "null is wanted",
}


def validated(
    model: type[M],
    raw: Mapping[str, Any],
    across: Callable[[Mapping[str, Any]], Iterable[Problem]],
    error: type[ProblemsError],
    known: Iterable[Problem] = (),
) -> M:
    """Validate `raw`; raise `error` with every problem: `known` first, then by field, then across fields."""
    problems, made = list(known), None
    try:
        made = model.model_validate(raw)
    except ValidationError as invalid:
        _extend(problems, problems_of(model, invalid))
    _extend(problems, across(raw))
    if problems or made is None:
        raise error(tuple(problems))
    return made


def problems_of(model: type[BaseModel], invalid: ValidationError) -> list[Problem]:
    """Pydantic's errors of single fields in our words."""
    return [_problem(model, detail) for detail in invalid.errors() if not _is_echo(detail)]


def _is_echo(detail: ErrorDetails) -> bool:
    """Said elsewhere: across fields, or a list called too short because its items are wrong."""
    return detail["type"] == CROSS or (detail["type"] == "too_short" and bool(detail["input"]))


def _extend(problems: list[Problem], more: Iterable[Problem]) -> None:
    taken = [problem.path for problem in problems if problem.path]

    def is_new(problem: Problem) -> bool:
        return not any(problem.path == path or problem.path.startswith(f"{path}.") for path in taken)

    problems.extend([problem for problem in more if is_new(problem)])


def _problem(model: type[BaseModel], detail: ErrorDetails) -> Problem:
    parts = [part for part in detail["loc"] if part != "[key]"]
    path = ".".join(str(part) for part in parts)
    value = None if detail["type"] == "missing" else detail.get("input")
    return Problem(path, value, _message(model, parts, detail))


def _message(model: type[BaseModel], parts: list[int | str], detail: ErrorDetails) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return _unknown(str(parts[-1]), fields_at(model, parts[:-1]))
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        return f"one of {context['expected']}"
    if kind in ("too_short", "string_too_short"):
        return "must not be empty"
    if kind in _WANTED:
        return _WANTED[kind]
    for bound, words in (("ge", "at least"), ("gt", "more than"), ("le", "at most"), ("lt", "less than")):
        if bound in context:
            return f"must be {words} {context[bound]}"
    return detail["msg"]


def _unknown(name: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"unknown field; did you mean {near[0]}?"
    return f"unknown field; known here: {', '.join(names)}" if names else "unknown field"


def fields_at(model: type[Any], parts: Iterable[int | str]) -> tuple[str, ...]:
    """The names of the fields of whatever stands at this path of the model; empty when that has none."""
    here: Any = model
    for part in parts:
        here = _plain(here)
        if get_origin(here) in (tuple, list):
            here = get_args(here)[0]
        elif get_origin(here) is dict:
            here = get_args(here)[1]
        else:
            field = _fields(here).get(str(part))
            if field is None:
                return ()
            here = field.annotation
    return tuple(_fields(_plain(here)))


def _fields(here: Any) -> Mapping[str, Any]:
    fields = getattr(here, "model_fields", None) or getattr(here, "__pydantic_fields__", None)
    return fields or {}


def _plain(annotation: Any) -> Any:
    """Take Annotated and Optional off."""
    while hasattr(annotation, "__metadata__"):
        annotation = annotation.__origin__
    if get_origin(annotation) in (Union, types.UnionType):
        options = [option for option in get_args(annotation) if option is not type(None)]
        return _plain(options[0]) if len(options) == 1 else annotation
    return annotation
