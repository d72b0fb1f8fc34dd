"""What an expression of the worker is, as far as its text tells: a name of a library, an instance of one, or neither.

Told by assignments, annotations and calls whose result is known; where they say nothing, by the name: what is called
`config` is an IBuilderConfig. What is called so and is something else has to be annotated, or called otherwise.
"""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

MODULES: Final = {"tensorrt": "trt", "cuda.bindings.runtime": "cudart", "pynvml": "pynvml"}
CONVENTION: Final = {
    "builder": "Builder",
    "cache": "ITimingCache",
    "config": "IBuilderConfig",
    "context": "IExecutionContext",
    "engine": "ICudaEngine",
    "inspector": "EngineInspector",
    "layer": "ILayer",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "parser_refitter": "OnnxParserRefitter",
    "profile": "IOptimizationProfile",
    "refitter": "Refitter",
    "runtime": "Runtime",
    "tensor": "ITensor",
}
RETURNS: Final = {
    "create_builder_config": "IBuilderConfig",
    "create_engine_inspector": "EngineInspector",
    "create_execution_context": "IExecutionContext",
    "create_execution_context_without_device_memory": "IExecutionContext",
    "create_network": "INetworkDefinition",
    "create_optimization_profile": "IOptimizationProfile",
    "create_timing_cache": "ITimingCache",
    "deserialize_cuda_engine": "ICudaEngine",
    "get_error": "ParserError",
    "get_input": "ITensor",
    "get_layer": "ILayer",
    "get_output": "ITensor",
    "get_timing_cache": "ITimingCache",
}
ITEMS: Final = ("get", "items", "pop", "values")  # of a container: what comes out is what its annotation says
ANYTHING: Final = ("Any", "object")
FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True, slots=True)
class Member:
    """`path` of a library: a class, a function, a member of an enumeration; "" is the library itself."""

    library: str
    path: str


@dataclass(frozen=True, slots=True)
class Offer:
    """What `library.get(name)` answered: a member that some versions have."""

    path: str


@dataclass(frozen=True, slots=True)
class Instance:
    """An object of a class of TensorRT."""

    of: str


@dataclass(frozen=True, slots=True)
class Other:
    """Certainly nothing of a library."""


@dataclass(frozen=True, slots=True)
class Foreign(Other):
    """A module, or a name of one, that is neither a library's nor the worker's."""


Value = Member | Offer | Instance | Other | None  # None: the text does not say


@dataclass
class Scope:
    """The names that one function, or the module, binds, with all that they are bound to."""

    parent: "Scope | None" = None
    names: dict[str, list[tuple["ast.expr | Value", "Scope"]]] = field(default_factory=dict)
    of_self: "Scope | None" = None  # the attributes of `self` in the class around

    def bind(self, name: str, to: "ast.expr | Value", where: "Scope | None" = None) -> None:
        self.names.setdefault(name, []).append((to, where or self))


class Reader:
    """Values of expressions in one file. offers: OFFERS of the worker's library.py."""

    def __init__(self, offers: Mapping[str, str]) -> None:
        self._offers = offers
        self._asking: set[tuple[int, str]] = set()

    def value(self, node: ast.AST, scope: Scope) -> Value:
        """Of an expression, at any place of its scope."""
        if isinstance(node, ast.Name):
            return self._named(node.id, scope)
        if isinstance(node, ast.Attribute):
            return self._attribute(node, scope)
        if isinstance(node, ast.Call):
            return self._result(node, scope)
        if isinstance(node, ast.Subscript):
            return Other() if isinstance(self.value(node.value, scope), Other) else None
        if isinstance(node, ast.Constant) and node.value is None:
            return None  # what is not there yet
        literals = (ast.Constant, ast.JoinedStr, ast.Dict, ast.List, ast.Set, ast.DictComp, ast.ListComp)
        return Other() if isinstance(node, literals) else None

    def _named(self, name: str, scope: Scope) -> Value:
        here: Scope | None = scope
        while here is not None and name not in here.names:
            here = here.parent
        return (self._bound(name, here) if here else None) or by_convention(name)

    def _bound(self, name: str, scope: Scope) -> Value:
        """Of everything that the name is bound to, a library's comes first: better asked once too often."""
        if (id(scope), name) in self._asking:
            return None
        self._asking.add((id(scope), name))
        values = [
            self.value(bound, where) if isinstance(bound, ast.AST) else bound
            for bound, where in scope.names[name]
        ]
        self._asking.remove((id(scope), name))
        of_library = [value for value in values if isinstance(value, Member | Offer | Instance)]
        if of_library:
            return of_library[0]
        return Other() if any(isinstance(value, Other) for value in values) else None

    def _attribute(self, node: ast.Attribute, scope: Scope) -> Value:
        if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls") and scope.of_self:
            known = self._bound(node.attr, scope.of_self) if node.attr in scope.of_self.names else None
            return known or by_convention(node.attr)
        base = self.value(node.value, scope)
        if isinstance(base, Member):
            return Member(base.library, f"{base.path}.{node.attr}".lstrip("."))
        if isinstance(base, Offer):
            return Offer(f"{base.path}.{node.attr}")
        if isinstance(base, Foreign):
            return base
        return by_convention(node.attr)

    def _result(self, node: ast.Call, scope: Scope) -> Value:
        name = called(node)
        if offer := self.offer(node):
            return offer
        if name in RETURNS:
            return Instance(RETURNS[name])
        function = self.value(node.func, scope)
        if isinstance(function, Member | Offer):
            of_trt = isinstance(function, Offer) or function.library == "trt"
            return Instance(function.path) if of_trt and function.path.split(".")[-1][:1].isupper() else None
        if isinstance(node.func, ast.Attribute):
            owner = self.value(node.func.value, scope)
            if isinstance(owner, Other) and (name in ITEMS or name[:1].isupper()):
                return Other()
        return Other() if name[:1].isupper() or isinstance(function, Foreign) else None

    def offer(self, node: ast.Call) -> Offer | None:
        """What `library.get("name")` gives, when the name is in OFFERS."""
        asked = name_asked_for(node)
        return Offer(self._offers[asked]) if asked in self._offers and called(node) == "get" else None

    def annotated(self, node: ast.expr | None, scope: Scope) -> Value:
        """What an annotation says."""
        if node is None:
            return None
        parts = [part for part in ast.walk(node) if isinstance(part, ast.Name | ast.Attribute)]
        for part in parts:
            value = self.value(part, scope)
            if isinstance(value, Member) and value.library == "trt" and value.path:
                return Instance(value.path)
        names = {part.id if isinstance(part, ast.Name) else part.attr for part in parts}
        return None if names & set(ANYTHING) else Other()


def by_convention(name: str) -> Value:
    """What an instance of this name is, and what `trt` is wherever it comes from."""
    plain = name.strip("_")
    if plain in MODULES.values():
        return Member(plain, "")
    return Instance(CONVENTION[plain]) if plain in CONVENTION else None


def called(node: ast.Call) -> str:
    """The last name of what is called; of `getattr(x, "name")()` that name."""
    if isinstance(node.func, ast.Call) and called(node.func) == "getattr":
        return next(iter(strings(node.func.args[1])), "") if len(node.func.args) > 1 else ""
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def name_asked_for(node: ast.Call) -> str:
    """ "name" of `library.get("name")` and `library.offers("name")`; "" for any other call."""
    function = node.func
    of_library = isinstance(function, ast.Attribute) and getattr(function.value, "id", "") == "library"
    if of_library and called(node) in ("get", "offers") and len(node.args) == 1:
        return next(iter(strings(node.args[0])), "")
    return ""


def strings(node: ast.AST) -> Iterator[str]:
    """Every string that an expression may be; what calls are given is not."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif not isinstance(node, ast.Call):
        for part in ast.iter_child_nodes(node):
            yield from strings(part)
