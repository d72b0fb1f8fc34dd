"""YAML with `${SLUICE_…}` in it, read strictly.

Problem: what differs between a laptop and a cluster is addresses, and they come from the environment; but text
pasted into YAML could change its structure, and YAML 1.1 reads `on` as true, `1e-4` as a text, `1:30` as 90 and
keeps the last of two equal keys. Invariants: a variable replaces text inside one scalar and nothing else; only
variables that begin with SLUICE_ are readable, so that no spec can publish a credential; scalars follow the
core schema of YAML 1.2; a key that stands twice is a problem.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from sluice.errors import Problem, SpecError

PREFIX: Final = "SLUICE_"
_VARIABLE: Final = re.compile(r"\$(\$\{|\{([^}]*)\})")  # $${ is a literal ${
_MOST_NODES: Final = 20_000  # a spec has some hundred; aliases of aliases can make millions

_NULL: Final = re.compile(r"null|Null|NULL|~|")
_BOOL: Final = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT: Final = re.compile(r"[-+]?[0-9]+")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_TEXT_TAG: Final = "tag:yaml.org,2002:str"


class _Composer(yaml.SafeLoader):
    """Reads text into nodes and resolves nothing: `_plain_value` does."""


_Composer.yaml_implicit_resolvers = {}


@dataclass(slots=True)
class Document:
    """Plain values, the line of each dotted path (from 1), and what was wrong so far."""

    value: Any = None
    lines: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def line_of(self, path: str) -> int | None:
        """The line of the path, or of the nearest part of the document that holds it."""
        while path and path not in self.lines:
            path = path.rpartition(".")[0]
        return self.lines.get(path)


def read_yaml(text: str, env: Mapping[str, str]) -> Document:
    """Read one YAML document. A syntax error raises SpecError with its line; other problems are collected."""
    try:
        node = yaml.compose(text, Loader=_Composer)
    except yaml.YAMLError as error:
        raise SpecError((_syntax(error, text),)) from error
    document = Document()
    if node is not None:
        document.value = _Reader(env, document).read(node, "")
    return document


def _syntax(error: yaml.YAMLError, text: str) -> Problem:
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or str(error).splitlines()[0]
    if mark is None:
        return Problem("", None, f"YAML syntax: {what}")
    if "${" in "".join(text.splitlines()[mark.line : mark.line + 1]):
        what += "; inside { } and [ ] put ${…} in quotes"
    return Problem("", None, f"YAML syntax: {what}", mark.line + 1)


class _Reader:
    """One walk over the nodes of a document."""

    def __init__(self, env: Mapping[str, str], document: Document) -> None:
        self._env, self._document = env, document
        self._above: list[int] = []  # ids of the nodes that hold this one: an alias may close a ring
        self._count = 0

    def read(self, node: yaml.Node, path: str) -> Any:
        """The plain value of the node; problems go to the document."""
        self._document.lines.setdefault(path, node.start_mark.line + 1)
        self._count += 1
        if id(node) in self._above or self._count > _MOST_NODES:
            self._complain(path, None, "an alias that makes the document endless; write it out")
            return None
        if not isinstance(node, yaml.ScalarNode):
            self._above.append(id(node))
            value = self._collection(node, path)
            self._above.pop()
            return value
        return self._scalar(node, path)

    def _collection(self, node: yaml.Node, path: str) -> Any:
        dot = f"{path}." if path else ""
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, f"{dot}{index}") for index, item in enumerate(node.value)]
        values: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._complain(path, None, "a key must be a plain name")
            elif key.value in values:
                self._complain(f"{dot}{key.value}", None, f"stands twice, again in line {_line(key)}")
            else:
                values[key.value] = self.read(value, f"{dot}{key.value}")
        return values

    def _scalar(self, node: yaml.ScalarNode, path: str) -> Any:
        text = self._filled(node.value, path)
        if node.tag not in (_TEXT_TAG, "!") and not node.tag.startswith("?"):
            self._complain(path, node.value, f"the tag {node.tag} is not supported")
        return text if node.style else _plain_value(text)

    def _filled(self, text: str, path: str) -> str:
        def fill(match: re.Match[str]) -> str:
            name = match.group(2)
            if name is None:
                return "${"
            if not re.fullmatch(PREFIX + "[A-Z0-9_]+", name):
                message = f"only variables named {PREFIX}… can be used; write $${{ for a literal ${{"
                self._complain(path, text, message)
            elif not self._env.get(name):
                state = "is empty" if name in self._env else "is not set"
                self._complain(path, text, f"the environment variable {name} {state}")
            return self._env.get(name, "") if name.startswith(PREFIX) else ""

        return _VARIABLE.sub(fill, text)

    def _complain(self, path: str, value: Any, message: str) -> None:
        self._document.problems.append(Problem(path, value, message, self._document.line_of(path)))


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _plain_value(text: str) -> Any:
    """A scalar without quotes by the core schema of YAML 1.2, without octal, hexadecimal, inf and nan."""
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text
