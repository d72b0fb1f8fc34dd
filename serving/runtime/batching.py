"""Which waiting requests share one run, how they are joined, and how each gets its own rows back. Pure.

Invariants: first come, first served (nobody is overtaken); rows are counted, not requests; a request's answer is
the one it would have got alone (up to floating point: a longer matrix is summed in another order).
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final, Protocol, TypeVar

import numpy as np

from serving.runtime.oip import Array
from serving.runtime.shapes import BATCH, Model, Sizes, Tensor

# A batch is cut where more than half of it would be padding: at that point a run of its own is faster on a CPU
# (MiniLM: 4 rows of 64 tokens take 45 ms, of 128 tokens 92 ms: time follows tokens, not rows).
MAX_PADDING: Final = 2.0


class Waiting(Protocol):
    """What a batch is made of."""

    tensors: Mapping[str, Array]
    sizes: Sizes
    gone: bool  # its client has left: it is not computed


W = TypeVar("W", bound=Waiting)


def take(queue: deque[W], model: Model) -> list[W]:
    """Remove and return the longest beginning of the queue that may share one run; empty if none waits."""
    batch: list[W] = []
    rows, cells, widest = 0, 0, {}
    while queue:
        head = queue[0]
        if head.gone:
            queue.popleft()
            continue
        more = head.sizes.get(BATCH, 1)
        joined = _join(widest, head.sizes, model) if batch else _others(head.sizes)
        area = _area(head.sizes)
        if batch and (
            joined is None
            or rows + more > model.max_rows
            or (rows + more) * _area(joined) > MAX_PADDING * (cells + more * area)
        ):
            break
        rows, cells, widest = rows + more, cells + more * area, joined or {}
        batch.append(queue.popleft())
    return batch


def _others(sizes: Sizes) -> Sizes:
    return {name: size for name, size in sizes.items() if name != BATCH}


def _area(sizes: Sizes) -> int:
    return int(np.prod(list(_others(sizes).values()), dtype=np.int64))


def _join(widest: Sizes, sizes: Sizes, model: Model) -> Sizes | None:
    """The sizes that hold both, or None where they differ in an axis that must not be padded."""
    if not model.batched:
        return None
    joined = {name: max(size, widest[name]) for name, size in _others(sizes).items()}
    differ = {name for name, size in joined.items() if size != sizes[name] or size != widest[name]}
    return joined if differ <= model.padded_axes else None


def run_sizes(batch: Sequence[Waiting], model: Model, *, exact: bool) -> Sizes:
    """The sizes of one run. exact: no more than the longest request needs; else up to the next bucket."""
    sizes = {name: max(waiting.sizes[name] for waiting in batch) for name in batch[0].sizes}
    if BATCH in sizes:
        sizes[BATCH] = sum(waiting.sizes[BATCH] for waiting in batch)
    for name, size in sizes.items():
        if name in model.padded_axes:
            axis = model.axes[name]
            sizes[name] = max(size, axis.low) if exact else axis.bucket(size)
        elif name == BATCH and model.batched and not exact:
            sizes[name] = model.axes[name].bucket(size)
    return sizes


def assemble(batch: Sequence[Waiting], model: Model, *, exact: bool) -> dict[str, Array]:
    """One array per input for the whole batch; what no request fills is zero."""
    sizes = run_sizes(batch, model, exact=exact)
    if len(batch) == 1 and sizes == batch[0].sizes:
        return dict(batch[0].tensors)
    return {name: _filled(tensor, batch, sizes) for name, tensor in model.inputs.items()}


def _filled(tensor: Tensor, batch: Sequence[Waiting], sizes: Sizes) -> Array:
    whole = np.zeros(tensor.shape(sizes), dtype=tensor.dtype)
    row = 0
    for waiting in batch:
        part = waiting.tensors[tensor.name]
        corner = tuple(slice(0, size) for size in part.shape)
        if tensor.dims[0] == BATCH:
            corner = (slice(row, row + part.shape[0]), *corner[1:])
            row += part.shape[0]
        whole[corner] = part
    return whole


def split(batch: Sequence[Waiting], model: Model, outputs: Mapping[str, Array]) -> list[dict[str, Array]]:
    """Each request's own outputs, in the order of the batch: its rows, its length.

    ValueError when an output is too short for them, or is not of the manifest's fixed sizes.
    """
    answers: list[dict[str, Array]] = []
    row = 0
    for waiting in batch:
        rows = waiting.sizes.get(BATCH, 1)
        answers.append({name: _own(tensor, outputs, waiting, row) for name, tensor in model.outputs.items()})
        row += rows
    return answers


def _own(tensor: Tensor, outputs: Mapping[str, Array], waiting: Waiting, row: int) -> Array:
    whole = outputs[tensor.name]
    # A fixed size must be exactly that: cut to it, an answer that is too long would look like a whole one.
    fits = whole.ndim == len(tensor.dims) and all(
        isinstance(dim, str) or size == dim for size, dim in zip(whole.shape, tensor.dims, strict=True)
    )
    if not fits:
        raise ValueError(
            f"output '{tensor.name}' has shape {list(whole.shape)}, the manifest says {list(tensor.dims)}"
        )
    want = [waiting.sizes.get(dim) if isinstance(dim, str) else dim for dim in tensor.dims]
    first = [row if dim == BATCH else 0 for dim in tensor.dims]
    part = whole[
        tuple(slice(at, None if size is None else at + size) for at, size in zip(first, want, strict=True))
    ]
    if any(size is not None and got != size for got, size in zip(part.shape, want, strict=True)):
        raise ValueError(
            f"output '{tensor.name}' has shape {list(whole.shape)}, too small for {want} from {first}"
        )
    return part
