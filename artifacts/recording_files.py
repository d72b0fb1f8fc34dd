"""One file of recorded traffic: written by the recorder, or by a team that logs its inputs already.

Problem: a file that is read as something else calibrates a model on noise, and nothing fails. Invariants: what is
written is whole (one rename publishes it); what is read has every column, in the type that the spec says, and every
row is a sample of the spec or an error that names the row; none is left out.

Layout of ours: a column `<input>` (list of the input's type, C order) and `<input>.shape` (list<int32>) for each input,
the columns `sluice:content, :length, :stratum, :count, :first_seen, :last_seen` (a colon is in no input's name), and
under the metadata key `sluice.recording` one JSON object with service, schema version, seen, strata and lengths.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from artifacts.recorded import Recorded, Recording, RecordingError
from sluice.model_inputs import AxisRange, Sample, SampleError, filled_lines, json_of, sample_of
from sluice.reservoir import STRATA
from sluice.signature import TensorSpec

SCHEMA_VERSION: Final = 1
METADATA: Final = b"sluice.recording"
_FACTS: Final = {
    "content": pa.string(),
    "length": pa.int64(),
    "stratum": pa.string(),
    "count": pa.int64(),
    "first_seen": pa.date32(),
    "last_seen": pa.date32(),
}
_RECORD_ANEW: Final = "delete the file, or leave it out of recording.source; the recorder writes a new one"
_WRITE_SAMPLES: Final = (
    "write every input by name, without the batch dimension, as the spec's model.inputs says"
)

Axes = Mapping[str, AxisRange]


def write_recording(recording: Recording, inputs: Sequence[TensorSpec], path: Path) -> None:
    """Write one file atomically: a reader sees the old one or the new one. Raises OSError when the disk says so.

    ValueError when an input is named like the shape of another one.
    """
    table = pa.table(_columns(recording, inputs), schema=_schema(recording, inputs))
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        with draft.open("wb") as file:
            pq.write_table(table, file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_ours(
    table: pa.Table, source: str, inputs: Sequence[TensorSpec], axes: Axes, *, service: str
) -> Recording:
    """A file of ours that belongs to this service. Raises RecordingError."""
    facts = _facts(table, source, service)
    _check_types(table, source, inputs)
    plain = {name: table.column(f"sluice:{name}").to_pylist() for name in _FACTS}
    rows = []
    for index, sample in enumerate(_our_samples(table, source, inputs, axes)):
        values = {name: column[index] for name, column in plain.items()}
        _check_row(values, f"row {index}", source)
        names = {"first_seen", "last_seen", "content", "length", "stratum", "count"}
        rows.append(Recorded(sample=sample, **{name: values[name] for name in names}))
    return Recording(
        service=service,
        seen=facts["seen"],
        strata=facts["strata"],
        lengths={int(length): count for length, count in facts["lengths"].items()},
        rows=tuple(rows),
        per_stratum=facts["per_stratum"],
    )


def read_foreign(table: pa.Table, source: str, inputs: Sequence[TensorSpec], axes: Axes) -> Iterator[Sample]:
    """The samples of a team's own Parquet file. Raises RecordingError naming column or row (from 0)."""
    columns = {}
    for spec in inputs:
        if spec.name not in table.column_names:
            there = ", ".join(table.column_names) or "none"
            raise RecordingError(
                source, f"column {spec.name}", f"is missing; there are {there}", _WRITE_SAMPLES
            )
        columns[spec.name] = table.column(spec.name)
    shapes = {
        spec.name: table.column(f"{spec.name}.shape")
        for spec in inputs
        if f"{spec.name}.shape" in table.column_names
    }
    for index in range(table.num_rows):
        values = {name: column[index].as_py() for name, column in columns.items()}
        for name, column in shapes.items():
            values[name] = _reshaped(values[name], column[index].as_py(), f"row {index}", name, source)
        yield _sample(values, f"row {index}", source, inputs, axes)


def read_lines(text: str, source: str, inputs: Sequence[TensorSpec], axes: Axes) -> Iterator[Sample]:
    """The samples of a JSONL file. Raises RecordingError naming the line (from 1)."""
    for number, line in filled_lines(text):
        try:
            values = json_of(number, line)
        except SampleError as error:
            raise RecordingError(source, f"line {number}", error.problem, _WRITE_SAMPLES) from error
        yield _sample(values, f"line {number}", source, inputs, axes)


def is_ours(table: pa.Table) -> bool:
    """Whether a recorder wrote it, in whatever version."""
    return METADATA in (table.schema.metadata or {})


# --- writing -------------------------------------------------------------------------------------


def _schema(recording: Recording, inputs: Sequence[TensorSpec]) -> pa.Schema:
    fields = [(f"sluice:{name}", kind) for name, kind in _FACTS.items()]
    for spec in inputs:
        fields += [(spec.name, _list_of(spec)), (f"{spec.name}.shape", pa.list_(pa.int32()))]
    names = [name for name, _ in fields]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"model.inputs: {twice[0]} is the shape of another input in a recording; rename it")
    facts = {
        "schema": SCHEMA_VERSION,
        "service": recording.service,
        "seen": recording.seen,
        "strata": dict(recording.strata),
        "lengths": {str(length): count for length, count in recording.lengths.items()},
        "per_stratum": recording.per_stratum,
    }
    return pa.schema(fields, metadata={METADATA: json.dumps(facts, sort_keys=True).encode()})


def _columns(recording: Recording, inputs: Sequence[TensorSpec]) -> dict[str, pa.Array]:
    rows = recording.rows
    columns = {
        f"sluice:{name}": pa.array([getattr(row, name) for row in rows], kind)
        for name, kind in _FACTS.items()
    }
    for spec in inputs:
        arrays = [np.ascontiguousarray(row.sample[spec.name], dtype=spec.dtype) for row in rows]
        columns[spec.name] = pa.array([array.ravel() for array in arrays], _list_of(spec))
        columns[f"{spec.name}.shape"] = pa.array([array.shape for array in arrays], pa.list_(pa.int32()))
    return columns


def _list_of(spec: TensorSpec) -> pa.DataType:
    return pa.list_(pa.from_numpy_dtype(np.dtype(spec.dtype)))


# --- reading ours --------------------------------------------------------------------------------


def _facts(table: pa.Table, source: str, service: str) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads(table.schema.metadata[METADATA])
        version = facts["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise RecordingError(
            source, "metadata", f"{METADATA.decode()} is damaged ({error})", _RECORD_ANEW
        ) from error
    if version != SCHEMA_VERSION:
        fix = "read it with the Sluice that wrote it, or record anew"
        raise RecordingError(
            source, "metadata", f"schema version is {version!r}, wanted {SCHEMA_VERSION}", fix
        )
    if facts.get("service") != service:
        fix = "give recording.source the folder of this service"
        raise RecordingError(
            source, "metadata", f"recorded of service {facts.get('service')!r}, not {service!r}", fix
        )
    sums = {name: sum(facts.get(name, {}).values()) for name in ("strata", "lengths")}
    if any(total != facts.get("seen") for total in sums.values()):
        problem = (
            f"seen is {facts.get('seen')!r}, strata sum to {sums['strata']}, lengths to {sums['lengths']}"
        )
        raise RecordingError(source, "metadata", problem, _RECORD_ANEW)
    return facts


def _check_types(table: pa.Table, source: str, inputs: Sequence[TensorSpec]) -> None:
    wanted = {f"sluice:{name}": kind for name, kind in _FACTS.items()}
    for spec in inputs:
        wanted |= {spec.name: _list_of(spec), f"{spec.name}.shape": pa.list_(pa.int32())}
    for name, kind in wanted.items():
        if name not in table.column_names:
            raise RecordingError(source, f"column {name}", "is missing", _RECORD_ANEW)
        found = table.schema.field(name).type
        if not _same_type(found, kind):
            problem = f"is {found}, wanted {kind}: it was recorded of other inputs"
            raise RecordingError(source, f"column {name}", problem, _RECORD_ANEW)


def _same_type(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Lists are compared by what they hold: Parquet renames the field inside."""
    if pa.types.is_list(found) and pa.types.is_list(wanted):
        return bool(found.value_type == wanted.value_type)
    return bool(found == wanted)


def _our_samples(table: pa.Table, source: str, inputs: Sequence[TensorSpec], axes: Axes) -> Iterator[Sample]:
    for index in range(table.num_rows):
        values: dict[str, Any] = {}
        for spec in inputs:
            cell, shape = table.column(spec.name)[index], table.column(f"{spec.name}.shape")[index].as_py()
            flat = None if cell.values is None else cell.values.to_numpy(zero_copy_only=False)
            values[spec.name] = _reshaped(flat, shape, f"row {index}", spec.name, source)
        yield _sample(values, f"row {index}", source, inputs, axes)


def _check_row(values: dict[str, Any], where: str, source: str) -> None:
    if missing := [name for name, value in values.items() if value is None]:
        raise RecordingError(source, where, f"{missing[0]} is null", _RECORD_ANEW)
    if values["stratum"] not in STRATA:
        problem = f"stratum is {values['stratum']!r}, wanted one of {', '.join(STRATA)}"
        raise RecordingError(source, where, problem, _RECORD_ANEW)
    if values["count"] < 1 or values["length"] < 0:
        problem = f"count is {values['count']}, length is {values['length']}, wanted 1 or more and 0 or more"
        raise RecordingError(source, where, problem, _RECORD_ANEW)


# --- reading any ---------------------------------------------------------------------------------


def _reshaped(flat: Any, shape: Any, where: str, name: str, source: str) -> np.ndarray:
    """Kept as plain values' own type, so that what does not fit the input's is seen."""
    if flat is None or shape is None:
        raise RecordingError(source, where, f"{name} or its shape is null", _WRITE_SAMPLES)
    try:
        return np.asarray(flat).reshape(shape)
    except (ValueError, TypeError) as error:
        problem = f"{name} has {len(flat)} values, its shape is {list(shape)}"
        raise RecordingError(source, where, problem, _WRITE_SAMPLES) from error


def _sample(values: Any, where: str, source: str, inputs: Sequence[TensorSpec], axes: Axes) -> Sample:
    try:
        return sample_of(0, values, inputs, axes)
    except SampleError as error:
        raise RecordingError(source, where, error.problem, _WRITE_SAMPLES) from error
