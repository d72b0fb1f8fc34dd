"""Recorded traffic from wherever a team keeps it: a file, a folder, an object store.

Problem: one service's traffic lies in a file for each day, in several recorders' folders, or in a log that the team has
always had; calibration wants one sample of it. Invariants: the same content in two files is one row, its counts summed,
its days widened; what no recorder has sampled yet is sampled here by the recorder's own rules; a source with nothing in
it is an error, since "no traffic" and "a wrong path" look alike.
"""

import errno
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from artifacts.recorded import Recorded, Recording, RecordingError
from artifacts.recording_files import (
    SCHEMA_VERSION,
    Axes,
    is_ours,
    read_foreign,
    read_lines,
    read_ours,
    write_recording,
)
from sluice.contents import content_of, length_of
from sluice.errors import RetryableError, SluiceError
from sluice.model_inputs import Sample
from sluice.reservoir import LENGTHS, PER_STRATUM, Reservoir
from sluice.signature import TensorSpec

__all__ = ["SCHEMA_VERSION", "Recorded", "Recording", "RecordingError", "read_recording", "write_recording"]

SUFFIXES: Final = (".parquet", ".jsonl")
ELSEWHERE: Final = "correct recording.source, or record some traffic first"


def read_recording(
    source: str,
    inputs: Sequence[TensorSpec],
    axes: Axes,
    *,
    service: str,
    salt: str,
    lengths: tuple[int, int] = LENGTHS,
    per_stratum: int = PER_STRATUM,
) -> Recording:
    """Everything that `source` holds of the service's traffic, rows by content.

    source: a file, a folder (its own files, not those of folders in it; names that begin with a dot are left out) or a
    URI of one (s3://, gs://, file://). Files: `.parquet` of a recorder, `.parquet` with the inputs as columns, `.jsonl`
    with one un-batched sample a line.
    axes: the spec's model.axes. salt: of the contents of files that no recorder wrote. lengths: the longest short and
    the longest medium sample; over several files a row's stratum goes by them. per_stratum: so many contents of each
    stratum are kept of several files and of files that no recorder wrote; one file of a recorder is read whole. Where a
    file does not say its samples' days, they are the UTC day on which it was written last.

    Over several files, with per_stratum no more than the recorders' own, counts are exact: what is among the smallest
    of all was so in each file. Only a frequent content may lack the sights of a file in which it was not frequent.
    Raises RecordingError, and RetryableError when the storage does not answer.
    """
    filesystem, files = _files(source)
    merge = _Merge(service, salt, tuple(inputs), axes, lengths, per_stratum)
    ours: Recording | None = None
    for info, name in files:
        ours = _take(filesystem, info, name, merge)
    made = ours if ours is not None and len(files) == 1 else merge.recording()
    if not made.rows:
        raise RecordingError(
            source, "", "its files hold no sample", "record some traffic first, or name another source"
        )
    return made


@dataclass(slots=True)
class _Merge:
    """Several files on the way to one recording."""

    service: str
    salt: str
    inputs: tuple[TensorSpec, ...]
    axes: Axes
    bounds: tuple[int, int]
    per_stratum: int
    strata: Counter[str] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    parts: dict[str, Counter[str]] = field(
        default_factory=lambda: defaultdict(Counter)
    )  # content -> its strata
    kept: Reservoir[Sample] = field(init=False)

    def __post_init__(self) -> None:
        self.kept = Reservoir(self.service, self.per_stratum, self.bounds)

    def add(self, recording: Recording) -> None:
        """A file that a recorder, or `sampled`, made."""
        self.strata.update(recording.strata)
        self.lengths.update(recording.lengths)
        for row in recording.rows:
            self.parts[row.content][row.stratum] += row.count
            self.kept.add(row.as_seen)

    def sampled(self, samples: Iterable[Sample], day: date) -> Recording:
        """What a recorder would have kept of these samples."""
        reservoir: Reservoir[Sample] = Reservoir(self.service, self.per_stratum, self.bounds)
        for sample in samples:
            content = content_of(sample, self.inputs, self.salt)
            reservoir.offer(content, length_of(sample, self.inputs), day, sample)
        return recording_of(reservoir, self.service, self.per_stratum)

    def recording(self) -> Recording:
        """Everything so far. Sights of a content that is of another stratum over all files move with it."""
        made = recording_of(self.kept, self.service, self.per_stratum)
        for row in made.rows:
            for stratum, count in self.parts[row.content].items():
                self.strata[stratum] -= count
                self.strata[row.stratum] += count
        return Recording(
            service=self.service,
            seen=self.strata.total(),
            strata={name: count for name, count in sorted(self.strata.items()) if count},
            lengths=dict(sorted(self.lengths.items())),
            rows=made.rows,
            per_stratum=self.per_stratum,
        )


def recording_of(reservoir: Reservoir[Sample], service: str, per_stratum: int) -> Recording:
    """What a reservoir holds now, as it is written."""
    rows = tuple(
        Recorded(
            content=seen.content,
            length=seen.length,
            stratum=stratum,
            count=seen.count,
            first_seen=seen.first,
            last_seen=seen.last,
            sample=seen.payload,
        )
        for stratum, seen in reservoir.kept()
    )
    return Recording(
        service=service,
        seen=reservoir.seen,
        strata={name: count for name, count in reservoir.strata.items() if count},
        lengths=reservoir.histogram,
        rows=rows,
        per_stratum=per_stratum,
    )


# --- where the files are -------------------------------------------------------------------------


def _files(source: str) -> tuple[fs.FileSystem, list[tuple[fs.FileInfo, str]]]:
    """The files and their names in messages; at least one."""
    filesystem, path = _storage(source)
    shown = _shown(source)
    info = _infos(source, filesystem, path)
    if info.type == fs.FileType.NotFound:
        raise RecordingError(shown, "", "is not there", ELSEWHERE)
    if info.type == fs.FileType.File:
        if not info.path.endswith(SUFFIXES):
            fix = "convert it, or name a folder"
            raise RecordingError(shown, "", f"is neither {' nor '.join(SUFFIXES)}", fix)
        return filesystem, [(info, shown)]
    found = _infos(source, filesystem, fs.FileSelector(path))
    files = [
        (one, f"{shown.rstrip('/')}/{one.base_name}")
        for one in sorted(found, key=lambda one: str(one.base_name))
        if one.is_file and one.path.endswith(SUFFIXES) and not one.base_name.startswith(".")
    ]
    if not files:
        raise RecordingError(shown, "", f"is a folder with no {' or '.join(SUFFIXES)} file in it", ELSEWHERE)
    return filesystem, files


def _storage(source: str) -> tuple[fs.FileSystem, str]:
    if "://" not in source:
        return fs.LocalFileSystem(), str(Path(source).absolute())
    try:
        filesystem, path = fs.FileSystem.from_uri(source)
    except (pa.ArrowInvalid, ValueError) as error:
        fix = "give a path, or a URI that begins with s3://, gs:// or file://"
        raise RecordingError(
            _shown(source), "", f"is no storage that can be read ({_shown(str(error))})", fix
        ) from error
    except OSError as error:
        raise _away(source, error) from error
    return filesystem, path


def _infos(source: str, filesystem: fs.FileSystem, which: str | fs.FileSelector) -> Any:
    try:
        return filesystem.get_file_info(which)
    except OSError as error:
        raise _away(source, error) from error


def _away(source: str, error: OSError) -> SluiceError:
    """A storage that does not answer is worth a retry; a permission is not."""
    if error.errno in (errno.EACCES, errno.EPERM):
        fix = "let the pod's user read it: the recorder's files are for its own user and group"
        return RecordingError(source, "", f"cannot be read ({error.strerror})", fix)
    return RetryableError(
        f"recording {_shown(source)} cannot be read ({_shown(str(error))})",
        "check the storage, its credentials and permissions",
    )


def _shown(source: str) -> str:
    """Without the credentials that an address may hold."""
    return re.sub(r"//[^/@\s]*@", "//…@", source)


def _take(filesystem: fs.FileSystem, info: fs.FileInfo, name: str, merge: _Merge) -> Recording | None:
    """Read one file into the merge; return it when a recorder wrote it."""
    day = datetime.fromtimestamp(0 if info.mtime is None else info.mtime.timestamp(), UTC).date()
    try:
        with filesystem.open_input_file(info.path) as file:
            if info.path.endswith(".jsonl"):
                samples = read_lines(_text(file.read(), name), name, merge.inputs, merge.axes)
                merge.add(merge.sampled(samples, day))
                return None
            table = pq.read_table(file)
    except pa.ArrowInvalid as error:
        fix = "delete the file; whoever writes there must rename it into place when it is whole"
        raise RecordingError(name, "", f"is no whole Parquet file ({error})", fix) from error
    except OSError as error:
        raise _away(name, error) from error
    if not is_ours(table):
        merge.add(merge.sampled(read_foreign(table, name, merge.inputs, merge.axes), day))
        return None
    recording = read_ours(table, name, merge.inputs, merge.axes, service=merge.service)
    merge.add(recording)
    return recording


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise RecordingError(name, f"byte {error.start}", "is no UTF-8", "write the file as UTF-8") from error
