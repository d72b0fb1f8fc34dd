"""From a module to one ONNX file, by tracing, with nothing frozen and nothing unnamed.

Problem: PyTorch's tracer writes the branch it happened to take into the graph and only warns, and its exporter
names the first operator that it lacks, not where it stands. Invariants: every tracer warning is an error with
the module and the line; every unsupported operator is named with the modules that use it. The TorchScript
exporter is asked for on purpose (`dynamo=False`): the other one answers opset 17 with opset 18.
"""

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from build_images.exporter.errors import (
    FrozenControlFlowError,
    Place,
    TracingError,
    UnsupportedOperatorsError,
)
from sluice.errors import FatalError

Axes = Mapping[str, Mapping[int, str]]  # tensor name -> {dimension: name of its dynamic axis}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What one export is to write: the file, the opset, the names in order and the dynamic axes."""

    path: Path
    opset: int
    inputs: Sequence[str]
    outputs: Sequence[str]
    axes: Axes = field(default_factory=dict)


def trace(
    module: torch.nn.Module, example: Sequence[torch.Tensor], *, prefix: str = ""
) -> torch.jit.ScriptModule:
    """Trace one forward pass. FrozenControlFlowError naming each place where Python read a tensor's value.

    prefix: the module's own dotted name in the whole model, for the messages.
    """
    if isinstance(module, torch.jit.ScriptModule):
        return module
    places: list[Place] = []
    with _watched(module, prefix, places), torch.inference_mode():
        try:
            traced = torch.jit.trace(module, tuple(example), check_trace=False, strict=False)
        except FatalError:
            raise
        except Exception as error:  # whatever forward() raises is the model's
            raise TracingError(
                f"tracing {prefix or 'the model'}", f"{type(error).__name__}: {error}"
            ) from error
    if places:
        distinct = sorted(set(places))
        raise FrozenControlFlowError(distinct, sorted({p.module for p in distinct if p.module}))
    return traced


def export(
    traced: torch.jit.ScriptModule, example: Sequence[torch.Tensor], wanted: Wanted, *, prefix: str = ""
) -> None:
    """Write the ONNX file. UnsupportedOperatorsError names every operator without an ONNX form."""
    located = list(locate(traced.inlined_graph, prefix))  # the exporter rewrites the scopes as it goes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecation of this exporter; the written file is checked instead
        try:
            torch.onnx.export(
                traced,
                tuple(example),
                str(wanted.path),
                dynamo=False,
                opset_version=wanted.opset,
                input_names=list(wanted.inputs),
                output_names=list(wanted.outputs),
                dynamic_axes={name: dict(axes) for name, axes in wanted.axes.items()},
            )
        except torch.onnx.errors.UnsupportedOperatorError as error:
            found = _unsupported(traced, example, wanted.opset, located)
            raise UnsupportedOperatorsError(wanted.opset, found or _only(error, prefix)) from error
        except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
            raise TracingError(f"exporting {prefix or 'the model'}", str(error).splitlines()[0]) from error


def locate(graph: Any, prefix: str = "") -> Iterator[tuple[str, Place]]:
    """Every operator of a traced graph with where it stands, inner blocks included."""
    for node in graph.nodes():
        scope = node.scopeName().rsplit("/", 1)[-1].removeprefix("__module").removeprefix(".")
        lines = [line for line in node.sourceRange().splitlines() if "torch/" not in line] or [""]
        source = lines[0].replace("(", ":", 1).replace(")", "", 1).strip()
        yield node.kind(), Place(_joined(prefix, scope), _short(source))
        for block in node.blocks():
            yield from locate(block, prefix)


def _unsupported(
    traced: torch.jit.ScriptModule,
    example: Sequence[torch.Tensor],
    opset: int,
    located: Sequence[tuple[str, Place]],
) -> dict[str, list[Place]]:
    _, kinds = torch.onnx.utils.unconvertible_ops(traced, tuple(example), opset_version=opset)
    found: dict[str, list[Place]] = {}
    for kind, place in located:
        if kind in kinds and place not in found.setdefault(kind, []):
            found[kind].append(place)
    return found


def _only(error: Exception, prefix: str) -> dict[str, list[Place]]:
    """The one operator that the exporter named, where the graph no longer shows it."""
    names = [word for word in str(error).replace("'", " ").split() if "::" in word]
    return {names[0].rstrip(".") if names else str(error): [Place(prefix, "source unknown")]}


@contextlib.contextmanager
def _watched(module: torch.nn.Module, prefix: str, places: list[Place]) -> Iterator[None]:
    """Collect every tracer warning with the module whose forward() was running."""
    names = {id(sub): _joined(prefix, name) for name, sub in module.named_modules()}
    running: list[str] = []

    def enter(sub: torch.nn.Module, _: Any) -> None:
        running.append(names.get(id(sub), running[-1] if running else prefix))

    def leave(*_: Any) -> None:
        running.pop()

    def show(message: Any, category: type[Warning], filename: str, lineno: int, *_: Any) -> None:
        if issubclass(category, torch.jit.TracerWarning):
            places.append(Place(running[-1] if running else prefix, _short(f"{filename}:{lineno}")))

    hooks = (
        torch.nn.modules.module.register_module_forward_pre_hook(enter),
        torch.nn.modules.module.register_module_forward_hook(leave, always_call=True),
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = show
            yield
    finally:
        for hook in hooks:
            hook.remove()


def _joined(prefix: str, name: str) -> str:
    return ".".join(part for part in (prefix, name) if part)


def _short(source: str) -> str:
    """The last three parts of a path: enough to find the line, without the machine's folders."""
    path, _, rest = source.partition(":")
    return ":".join(filter(None, ("/".join(Path(path).parts[-3:]), rest.split(":")[0]))) or "source unknown"
