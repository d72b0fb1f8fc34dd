"""Loads the checkpoint's own code: the entry point that makes the model, and the custom symbolics.

Problem: the checkpoint's code is the user's, and whatever it raises must come back as "your load() failed, here
is where", not as a fault of ours. Invariant: a model that leaves here is in eval mode and needs no gradient.
"""

import importlib.util
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from build_images.exporter.errors import CheckpointCodeError, OutputError
from sluice.signature import TensorSpec


def load_model(folder: Path, entrypoint: str) -> torch.nn.Module:
    """`file.py:function` called with the checkpoint folder. CheckpointCodeError when that fails."""
    file, _, function = entrypoint.partition(":")
    load = _function(folder, file, function)
    try:
        model = load(folder)
    except Exception as error:
        raise CheckpointCodeError(
            entrypoint, _where(error, folder), f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(model, torch.nn.Module):
        raise CheckpointCodeError(entrypoint, file, f"returned {type(model).__name__}, not a torch.nn.Module")
    for parameter in model.parameters():  # one by one: a scripted module has no requires_grad_ of its own
        parameter.requires_grad_(requires_grad=False)
    return model.eval()


def register_symbolics(folder: Path, file: str | None, opset: int) -> None:
    """Call `register(opset)` of the checkpoint's symbolics file, when the spec names one."""
    if file is None:
        return
    register = _function(folder, file, "register")
    try:
        register(opset)
    except Exception as error:
        name = f"{file}:register"
        raise CheckpointCodeError(name, _where(error, folder), f"{type(error).__name__}: {error}") from error


def run_model(
    model: torch.nn.Module, feed: dict[str, np.ndarray], outputs: Sequence[TensorSpec]
) -> dict[str, np.ndarray]:
    """One forward pass, the inputs in the spec's order; outputs by the spec's names.

    OutputError when the model returns another number of tensors than the spec names.
    """
    with torch.inference_mode():
        result = model(*(torch.from_numpy(array) for array in feed.values()))
    tensors = tensors_of(result)
    if len(tensors) != len(outputs):
        raise OutputError(len(tensors), [spec.name for spec in outputs])
    return {spec.name: tensor.numpy() for spec, tensor in zip(outputs, tensors, strict=True)}


def tensors_of(result: object) -> list[torch.Tensor]:
    """The tensors that a forward pass returned: one, or those of a tuple, list or mapping in order."""
    if isinstance(result, torch.Tensor):
        return [result]
    if isinstance(result, dict):
        result = tuple(result.values())
    if isinstance(result, tuple | list):
        return [tensor for item in result for tensor in tensors_of(item)]
    return []


def _function(folder: Path, file: str, name: str) -> Callable[..., object]:
    path = folder / file
    if not path.is_file():
        raise CheckpointCodeError(f"{file}:{name}", file, "the checkpoint folder has no such file")
    module = _imported(path, folder)
    function = getattr(module, name, None)
    if not callable(function):
        raise CheckpointCodeError(f"{file}:{name}", file, f"the file defines no function `{name}`")
    return function


def _imported(path: Path, folder: Path) -> ModuleType:
    """Import one file under its own name, its folder importable, so that checkpoints may have several files."""
    sys.dont_write_bytecode = True  # a __pycache__ beside it would change the stored checkpoint
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    loaded = sys.modules.get(path.stem)
    if loaded is not None and getattr(loaded, "__file__", None) == str(path):
        return loaded
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise CheckpointCodeError(path.name, path.name, "cannot be imported as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[path.stem]
        where, text = _where(error, folder), f"{type(error).__name__}: {error}"
        raise CheckpointCodeError(path.name, where, text) from error
    return module


def _where(error: BaseException, folder: Path) -> str:
    """`model.py:17`, the last line of the checkpoint's own code in the trace."""
    own = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).is_relative_to(folder)]
    return f"{Path(own[-1].filename).relative_to(folder)}:{own[-1].lineno}" if own else "called from outside"
