"""Every name of TensorRT, CUDA and NVML that a package touches, held against what the real bindings offer.

A name of TensorRT must be in every version. What not every version has stands in OFFERS of the package's library.py
and is reached by `library.get("name")`, or, on an instance, by getattr and setattr with its name as a string. A class
that the library calls back has every method of its base, with the base's number of arguments.
"""

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.build_images.tensorrt_bindings.offered import Offered
from tests.build_images.tensorrt_bindings.values import (
    FUNCTIONS,
    MODULES,
    Foreign,
    Instance,
    Member,
    Offer,
    Other,
    Reader,
    Scope,
    called,
    name_asked_for,
    strings,
)

LIBRARY: Final = "library.py"
BY_NAME: Final = ("delattr", "getattr", "hasattr", "setattr")


@dataclass(frozen=True, slots=True)
class Bindings:
    """What there is: TensorRT in every version, the CUDA runtime and NVML in one."""

    trt: Sequence[Offered]
    cudart: Offered
    pynvml: Offered


def offers_of(package: Path) -> dict[str, str]:
    """OFFERS of the package's library.py, which is a plain dictionary of strings."""
    for node in ast.parse((package / LIBRARY).read_text()).body:
        target = node.target if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [None])[0]
        if getattr(target, "id", "") == "OFFERS":
            return dict(ast.literal_eval(node.value))
    raise ValueError(
        f"{package / LIBRARY}: no OFFERS = {{...}} at the top; name there what not every version has"
    )


def scan(package: Path, bindings: Bindings) -> tuple[list[str], int]:
    """(What is wrong, one line each; how many names of the libraries were looked at)."""
    offers = offers_of(package)
    problems: list[str] = []
    asked = 0
    for path in sorted(package.rglob("*.py")):
        file = _File(path, offers, bindings, package.name)
        problems += [f"{path.relative_to(package)}:{line}: {text}" for line, text in sorted(file.problems)]
        asked += file.asked
    return problems, asked


class _File:
    """One file: its scopes are read first, then every attribute is asked for in its scope."""

    def __init__(self, path: Path, offers: Mapping[str, str], bindings: Bindings, package: str) -> None:
        self.problems: set[tuple[int, str]] = set()
        self.asked = 0
        self._offers, self._bindings, self._package = offers, bindings, package
        self._dynamic = path.name == LIBRARY  # the one that turns strings into members
        self._reader = Reader(offers)
        self._waiting: list[tuple[ast.AST, Scope]] = []
        self._read(ast.parse(path.read_text(), str(path)), Scope())
        for node, scope in self._waiting:
            self._check(node, scope)

    # --- what names are bound to -----------------------------------------------------------------

    def _read(self, node: ast.AST, scope: Scope, inside: Scope | None = None) -> None:
        """Bind what the children of `node` bind. inside: the attributes of `self`, in a class body."""
        for child in ast.iter_child_nodes(node):
            self._waiting.append((child, scope))
            if isinstance(child, FUNCTIONS):
                scope.bind(child.name, Other())
                self._function(child, scope, inside)
            elif isinstance(child, ast.ClassDef):
                scope.bind(child.name, Other())
                self._read(child, Scope(scope), Scope())
            else:
                self._bind(child, scope)
                self._read(child, scope, inside)

    def _function(
        self, node: ast.FunctionDef | ast.AsyncFunctionDef, scope: Scope, inside: Scope | None
    ) -> None:
        body = Scope(scope, of_self=inside or scope.of_self)
        for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
            body.bind(one.arg, self._reader.annotated(one.annotation, scope))
        self._read(node, body)

    def _bind(self, node: ast.AST, scope: Scope) -> None:
        if isinstance(node, ast.Import | ast.ImportFrom):
            self._import(node, scope)
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                self._assign(target, node.value, scope)
        elif isinstance(node, ast.AnnAssign):
            said = self._reader.annotated(node.annotation, scope)
            self._assign(node.target, said or node.value, scope)
        elif isinstance(node, ast.NamedExpr):
            self._assign(node.target, node.value, scope)
        elif isinstance(node, ast.For | ast.comprehension):
            parts = node.target.elts if isinstance(node.target, ast.Tuple) else [node.target]
            one = ast.Subscript(node.iter, ast.Constant(0))
            for target in parts:
                self._assign(target, one, scope)

    def _assign(self, target: ast.AST, value: object, scope: Scope) -> None:
        if isinstance(target, ast.Tuple | ast.List):
            given = value.elts if isinstance(value, ast.Tuple | ast.List) else []
            paired = len(given) == len(target.elts)
            for index, part in enumerate(target.elts):
                self._assign(part, given[index] if paired else None, scope)
        elif isinstance(target, ast.Name):
            scope.bind(target.id, value)
        elif (
            isinstance(target, ast.Attribute) and getattr(target.value, "id", "") == "self" and scope.of_self
        ):
            scope.of_self.bind(target.attr, value, scope)

    def _import(self, node: ast.Import | ast.ImportFrom, scope: Scope) -> None:
        source = getattr(node, "module", None)
        for alias in node.names:
            path = f"{source}.{alias.name}" if source else alias.name
            name = alias.asname or alias.name.split(".")[0]
            if path in MODULES:
                if alias.asname or "." not in alias.name:
                    scope.bind(name, Member(MODULES[path], ""))
            elif source in MODULES:
                scope.bind(name, Member(MODULES[source], alias.name))
                self._member(Member(MODULES[source], alias.name), node.lineno)
            else:
                scope.bind(name, Other() if self._package in path else Foreign())

    # --- what is asked of it ---------------------------------------------------------------------

    def _check(self, node: ast.AST, scope: Scope) -> None:
        if isinstance(node, ast.Attribute):
            owner = self._reader.value(node.value, scope)
            if isinstance(owner, Member):
                self._member(Member(owner.library, f"{owner.path}.{node.attr}".lstrip(".")), node.lineno)
            elif isinstance(owner, Offer):
                self._offered(f"{owner.path}.{node.attr}", node.lineno)
            elif isinstance(owner, Instance):
                self._instance(owner.of, node.attr, node.lineno, set_to=isinstance(node.ctx, ast.Store))
        elif isinstance(node, ast.Call):
            asked = name_asked_for(node)
            if asked and asked not in self._offers:
                self._say(node.lineno, f"{asked!r} is not in OFFERS of {LIBRARY}; add it with its path")
            if called(node) in BY_NAME and isinstance(node.func, ast.Name) and not self._dynamic:
                self._by_name(node, scope)
        elif isinstance(node, ast.ClassDef):
            self._subclass(node, scope)

    def _subclass(self, node: ast.ClassDef, scope: Scope) -> None:
        for base in node.bases:
            owner = self._reader.value(base, scope)
            if isinstance(owner, Offer) or (isinstance(owner, Member) and owner.library == "trt"):
                self._overrides(node, owner.path)

    def _overrides(self, node: ast.ClassDef, base: str) -> None:
        """The library calls what it finds by name, with its own arguments in order, and does without the rest."""
        written = {one.name: one for one in node.body if isinstance(one, ast.FunctionDef)}
        for (name, count), versions in _calls(self._bindings.trt, base).items():
            self.asked += 1
            if name not in written:
                self._say(node.lineno, f"{node.name} has no {name}, which {base} has in {versions}")
            elif not takes(written[name].args, count):
                line = written[name].lineno
                self._say(line, f"{base}.{name} is called with {count - 1} arguments in {versions}")

    def _member(self, member: Member, line: int) -> None:
        self.asked += 1
        have = getattr(self._bindings, member.library)
        lacking = _lacking([have] if isinstance(have, Offered) else have, member.path)
        if lacking:
            self._say(line, f"{member.library}.{member.path} is not in {lacking}{_ADVICE[member.library]}")

    def _offered(self, path: str, line: int) -> None:
        """A name of what `library.get` gave: in every version that has what was got."""
        self.asked += 1
        owner = path.rpartition(".")[0]
        lacking = _lacking([one for one in self._bindings.trt if one.has(owner)], path)
        if lacking:
            self._say(line, f"trt.{path} is not in {lacking}, though {owner} is")

    def _instance(self, of: str, name: str, line: int, *, set_to: bool, by_string: bool = False) -> None:
        self.asked += 1
        path = f"{of}.{name}"
        if by_string and path in self._offers.values():
            return
        have = [one for one in self._bindings.trt if one.has(of)]
        lacking = _lacking(have, path)
        if lacking:
            how = "" if by_string else ", and use it by getattr or setattr with a string"
            self._say(line, f"{path} is not in {lacking}: add it to OFFERS of {LIBRARY}{how}")
        elif set_to and (fixed := [one.version for one in have if not one.takes(path)]):
            self._say(line, f"{path} cannot be set in {', '.join(fixed)}")

    def _by_name(self, node: ast.Call, scope: Scope) -> None:
        owner = self._reader.value(node.args[0], scope)
        if not isinstance(owner, Member | Instance | Offer):
            return
        names = list(self._names(node.args[1], scope))
        if not names:
            self._say(node.lineno, f"{called(node)}: the name cannot be read here; write it as a string")
        for name in names:
            if isinstance(owner, Instance):
                set_to = called(node) == "setattr"
                self._instance(owner.of, name, node.lineno, set_to=set_to, by_string=True)
            else:
                what = f"{called(node)} of a member: name it in OFFERS and ask library.get"
                self._say(node.lineno, what)

    def _names(self, node: ast.AST, scope: Scope) -> Iterator[str]:
        """The strings that an argument may be: its own, or those of what its name is bound to."""
        yield from strings(node)
        if isinstance(node, ast.Name):
            for bound, _ in scope.names.get(node.id, []):
                if isinstance(bound, ast.AST):
                    yield from strings(bound)

    def _say(self, line: int, text: str) -> None:
        self.problems.add((line, text))


def _calls(have: Sequence[Offered], base: str) -> dict[tuple[str, int], str]:
    """The methods of a class, each with its number of arguments, and the versions that have it so."""
    found: dict[tuple[str, int], list[str]] = {}
    for one in have:
        for method in one.methods(base).items():
            found.setdefault(method, []).append(one.version)
    return {method: ", ".join(versions) for method, versions in found.items()}


def takes(arguments: ast.arguments, count: int) -> bool:
    """Whether a function can be called with so many positional arguments."""
    positional = len(arguments.posonlyargs) + len(arguments.args)
    required = positional - len(arguments.defaults)
    by_name = any(default is None for default in arguments.kw_defaults)
    return required <= count and (count <= positional or arguments.vararg is not None) and not by_name


_ADVICE: Final = {
    "trt": f": add it to OFFERS of {LIBRARY}, and use it by library.get",
    "cudart": ", the pinned cuda-bindings",
    "pynvml": ", the pinned nvidia-ml-py",
}


def _lacking(have: Sequence[Offered], path: str) -> str:
    """The versions that have no such path."""
    if not have:
        return "any version"
    return ", ".join(one.version for one in have if not one.has(path))
