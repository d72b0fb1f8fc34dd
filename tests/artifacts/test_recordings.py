"""Recorded traffic: written whole, read back bit by bit, and refused row by row when it is something else."""

import errno
import json
import os
import threading
from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from artifacts import recordings
from artifacts.recordings import Recorded, Recording, RecordingError, read_recording, write_recording
from sluice.contents import content_of, length_of
from sluice.errors import RetryableError
from sluice.signature import DTYPES, TensorSpec
from sluice.spec_types import Axis
from tests.artifacts.object_store import BUCKET, bucket

INPUTS = (
    TensorSpec("input_ids", "int64", ("batch", "sequence")),
    TensorSpec("image", "float32", ("batch", 2, "width")),
)
AXES = {
    "batch": Axis(min=1, opt=2, max=8, buckets=(8,)),
    "sequence": Axis(min=1, opt=8, max=64, buckets=(64,)),
    "width": Axis(min=1, opt=2, max=4, buckets=(4,)),
}
LENGTHS = (4, 16)
DAY = date(2026, 3, 1)


def sample(*tokens, width=2):
    return {
        "input_ids": np.array(tokens, np.int64),
        "image": np.arange(2 * width, dtype=np.float32).reshape(2, width) / 3,
    }


def row(*tokens, count=1, day=DAY, last=None, stratum=None):
    values = sample(*tokens)
    length = length_of(values, INPUTS)
    name = "short" if length <= 4 else "medium" if length <= 16 else "long"
    return Recorded(
        content=content_of(values, INPUTS, "salt"),
        length=length,
        stratum=stratum or f"{name}-{'frequent' if count >= 3 else 'rare'}",
        count=count,
        first_seen=day,
        last_seen=last or day,
        sample=values,
    )


def recording(*rows, service="minilm", **more):
    strata, lengths = {}, {}
    for one in rows:
        strata[one.stratum] = strata.get(one.stratum, 0) + one.count
        lengths[one.length] = lengths.get(one.length, 0) + one.count
    seen = sum(strata.values())
    return Recording(service=service, seen=seen, strata=strata, lengths=lengths, rows=rows, **more)


def write(folder, *rows, name="2026-03-01.parquet", **more):
    write_recording(recording(*rows, **more), INPUTS, folder / name)
    return folder / name


def read(source, **more):
    more = {"service": "minilm", "salt": "salt", "lengths": LENGTHS, **more}
    return read_recording(str(source), INPUTS, AXES, **more)


def same_samples(one, other):
    return all(
        left.sample[spec.name].dtype == right.sample[spec.name].dtype
        and left.sample[spec.name].shape == right.sample[spec.name].shape
        and left.sample[spec.name].tobytes() == right.sample[spec.name].tobytes()
        for left, right in zip(one, other, strict=True)
        for spec in INPUTS
    )


def rewrite(path, change):
    """Change a file's table as a faulty writer would."""
    table = change(pq.read_table(path))
    pq.write_table(table, path)


# --- ours ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_uri", [False, True], ids=["path", "file-uri"])
@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_was_written_is_read(tmp_path, as_uri, what):
    """Every field, every bit of every array, by any name of the place."""
    rows = (row(1, 2), row(*range(9), count=5, last=date(2026, 3, 2)), row(*range(60)))
    path = write(tmp_path, *rows, per_stratum=7)
    (tmp_path / ".2026-03-01.parquet.draft").write_bytes(b"half a file")
    (tmp_path / "README").write_text("not ours to read")
    source = path if what == "file" else tmp_path
    got = read(f"file://{source}" if as_uri else source)
    assert got == recording(*rows, per_stratum=7)
    assert same_samples(got.rows, rows)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_of_a_spec_survives(tmp_path, dtype):
    """The extreme values of each."""
    inputs = (TensorSpec("x", dtype, ("batch", 2)),)
    kind = np.dtype(dtype)
    limits = (0, 1) if kind.kind == "b" else (np.finfo(kind) if kind.kind == "f" else np.iinfo(kind))
    values = np.array([0, 1] if kind.kind == "b" else [limits.min, limits.max], kind)
    one = Recorded(
        content="0" * 16,
        length=0,
        stratum="short-rare",
        count=1,
        first_seen=DAY,
        last_seen=DAY,
        sample={"x": values},
    )
    write_recording(recording(one), inputs, tmp_path / "a.parquet")
    got = read_recording(str(tmp_path), inputs, AXES, service="minilm", salt="s")
    assert got.rows[0].sample["x"].dtype == kind
    assert got.rows[0].sample["x"].tobytes() == values.tobytes()


def test_a_reader_never_sees_half_a_file(tmp_path):
    """While one writer replaces the file again and again, every reading is whole."""
    path = write(tmp_path, *(row(n) for n in range(50)))
    done = threading.Event()

    def replace():
        for turn in range(40):
            write(tmp_path, *(row(n) for n in range(50 + turn)))
        done.set()

    writer = threading.Thread(target=replace)
    writer.start()
    while not done.is_set():
        got = read(path)
        assert got.seen == len(got.rows) >= 50
    writer.join()
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_an_input_named_like_anothers_shape_is_refused(tmp_path):
    inputs = (TensorSpec("x", "int64", ("batch", 2)), TensorSpec("x.shape", "int64", ("batch", 2)))
    with pytest.raises(ValueError, match=r"x\.shape is the shape of another input"):
        write_recording(recording(), inputs, tmp_path / "a.parquet")
    assert list(tmp_path.iterdir()) == []


# --- several files -------------------------------------------------------------------------------


def test_the_same_content_of_two_days_is_one_row(tmp_path):
    """Counts are summed, days widened; what is frequent only over both moves with its sights."""
    write(tmp_path, row(1, 2, count=2), row(3), name="a.parquet")
    write(tmp_path, row(1, 2, count=2, day=date(2026, 3, 5)), row(*range(30)), name="b.parquet")
    got = read(tmp_path)
    by_content = {one.content: one for one in got.rows}
    joined = by_content[row(1, 2).content]
    assert (joined.count, joined.stratum) == (4, "short-frequent")
    assert (joined.first_seen, joined.last_seen) == (DAY, date(2026, 3, 5))
    assert len(by_content) == len(got.rows) == 3
    assert got.seen == 6
    assert got.strata == {"short-frequent": 4, "short-rare": 1, "long-rare": 1}
    assert got.lengths == {2: 5, 30: 1}  # [3] is as long as its image is wide


def test_several_files_give_one_sample_of_the_wanted_size(tmp_path):
    """The same contents whatever the split into files, and no stratum above its share."""
    rows = [row(n, n) for n in range(60)]
    for name, part in (("a.parquet", rows[:40]), ("b.parquet", rows[20:])):
        write(tmp_path, *part, name=name)
    one, other = read(tmp_path, per_stratum=10), tmp_path / "other"
    other.mkdir()
    write(other, *rows[:10], *rows[20:40], name="a.parquet")
    write(other, *rows[10:], name="b.parquet")
    assert len(one.rows) == 10
    assert [kept.content for kept in one.rows] == [kept.content for kept in read(other, per_stratum=10).rows]
    assert one.seen == 80


# --- a team's own log ----------------------------------------------------------------------------


def lines(*samples):
    plain = [{name: array.tolist() for name, array in one.items()} for one in samples]
    return "\n".join(json.dumps(one) for one in plain) + "\n"


TRAFFIC = [sample(1, 2), sample(5), sample(1, 2), sample(*range(20)), sample(1, 2)]


def foreign(folder, form):
    if form == "jsonl":
        path = folder / "log.jsonl"
        path.write_text(lines(*TRAFFIC))
    else:
        path = folder / "log.parquet"
        columns = {"input_ids": [one["input_ids"].tolist() for one in TRAFFIC], "user": ["u"] * 5}
        if form == "nested":
            columns["image"] = [one["image"].tolist() for one in TRAFFIC]
        else:
            columns["image"] = [one["image"].ravel().tolist() for one in TRAFFIC]
            columns["image.shape"] = [list(one["image"].shape) for one in TRAFFIC]
        pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize("form", ["jsonl", "nested", "flat"])
def test_a_teams_log_is_sampled_by_the_recorders_rules(tmp_path, form):
    path = foreign(tmp_path, form)
    got = read(path)
    assert {one.content: (one.stratum, one.count) for one in got.rows} == {
        content_of(sample(1, 2), INPUTS, "salt"): ("short-frequent", 3),
        content_of(sample(5), INPUTS, "salt"): ("short-rare", 1),
        content_of(sample(*range(20)), INPUTS, "salt"): ("long-rare", 1),
    }
    assert got.strata == {"short-frequent": 3, "short-rare": 1, "long-rare": 1}
    assert got.seen == 5
    written = datetime.fromtimestamp(path.stat().st_mtime, UTC).date()
    assert {one.first_seen for one in got.rows} == {written}
    wanted = {content_of(one, INPUTS, "salt"): one for one in TRAFFIC}
    for one in got.rows:
        assert one.sample["image"].tobytes() == wanted[one.content]["image"].tobytes()


def test_a_teams_log_and_a_recorders_file_are_one_traffic(tmp_path):
    foreign(tmp_path, "jsonl")
    write(tmp_path, row(5, count=4))
    got = {one.content: one.count for one in read(tmp_path).rows}
    assert got[row(5).content] == 5


# --- what is refused -----------------------------------------------------------------------------


def drop(name):
    return lambda table: table.drop_columns([name])


def put(name, values, kind=None):
    def change(table):
        at = table.column_names.index(name)
        field = pa.field(name, kind or table.schema.field(name).type)
        made = table.set_column(at, field, pa.array(values, field.type))
        return made.replace_schema_metadata(table.schema.metadata)

    return change


def facts(**changes):
    def change(table):
        old = json.loads(table.schema.metadata[b"sluice.recording"])
        return table.replace_schema_metadata({b"sluice.recording": json.dumps({**old, **changes}).encode()})

    return change


BAD = {
    "another-version": (facts(schema=2), "metadata: schema version is 2, wanted 1; read it with the Sluice"),
    "another-service": (facts(service="bert"), "recorded of service 'bert', not 'minilm'"),
    "counts-that-differ": (facts(seen=9), "seen is 9, strata sum to 2, lengths to 2"),
    "damaged-metadata": (
        lambda table: table.replace_schema_metadata({b"sluice.recording": b"{"}),
        "sluice.recording is damaged",
    ),
    "missing-input": (drop("image"), "column image: is missing"),
    "missing-shape": (drop("image.shape"), r"column image\.shape: is missing"),
    "missing-fact": (drop("sluice:count"), "column sluice:count: is missing"),
    "another-type": (
        put("input_ids", [[1], [1]], pa.list_(pa.int32())),
        "wanted list<.*int64>: it was recorded of",
    ),
    "not-finite": (
        put("image", [[0, 0, 0, 0], [0, 0, np.nan, 0]]),
        "row 1: image holds a value that is not finite",
    ),
    "null-row": (put("image", [None, [0, 0, 0, 0]]), "row 0: image or its shape is null"),
    "wrong-shape": (put("image.shape", [[2, 2], [4, 1]]), "row 1: image has 2=4, wanted 2 to 2"),
    "shape-of-more": (
        put("image.shape", [[2, 2], [2, 3]]),
        r"row 1: image has 4 values, its shape is \[2, 3\]",
    ),
    "too-long": (
        put("input_ids.shape", [[1], [99]]),
        r"row 1: input_ids has \d values, its shape is \[99\]",
    ),
    "unknown-stratum": (
        put("sluice:stratum", ["short-rare", "new"]),
        "row 1: stratum is 'new', wanted one of short-",
    ),
    "no-count": (put("sluice:count", [1, 0]), "row 1: count is 0"),
    "null-day": (put("sluice:last_seen", [DAY, None]), "row 1: last_seen is null"),
}


@pytest.mark.parametrize(("change", "words"), BAD.values(), ids=BAD)
def test_a_file_of_ours_that_is_not_what_it_says_is_refused(tmp_path, change, words):
    path = write(tmp_path, row(1), row(2, 3))
    rewrite(path, change)
    with pytest.raises(RecordingError, match=words) as caught:
        read(tmp_path)
    assert caught.value.source == str(path)


WRONG_LINES = {
    "no-json": ("{", "line 2: no JSON"),
    "missing": ('{"input_ids": [1]}', r"line 2: lacks \['image'\]"),
    "not-finite": (
        '{"input_ids": [1], "image": [[NaN], [0]]}',
        "line 2: image holds a value that is not finite",
    ),
    "shape": ('{"input_ids": [1], "image": [[0], [0], [0]]}', "line 2: image has 2=3"),
}


@pytest.mark.parametrize(("line", "words"), WRONG_LINES.values(), ids=WRONG_LINES)
def test_a_line_of_a_log_that_is_no_sample_is_refused_by_its_number(tmp_path, line, words):
    (tmp_path / "log.jsonl").write_text(lines(sample(1)) + line + "\n")
    with pytest.raises(RecordingError, match=words):
        read(tmp_path)


def test_a_row_of_a_teams_parquet_that_is_no_sample_is_refused_by_its_number(tmp_path):
    table = pa.table({"input_ids": [[1], [1]], "image": [[[0.0], [0.0]], [[0.0], [float("inf")]]]})
    pq.write_table(table, tmp_path / "log.parquet")
    with pytest.raises(RecordingError, match="row 1: image holds a value that is not finite"):
        read(tmp_path)


def test_a_teams_parquet_without_an_input_names_the_columns_there_are(tmp_path):
    pq.write_table(pa.table({"ids": [[1]], "image": [[[0.0], [0.0]]]}), tmp_path / "log.parquet")
    with pytest.raises(RecordingError, match="column input_ids: is missing; there are ids, image"):
        read(tmp_path)


def test_nothing_there_is_an_error_of_its_own_words(tmp_path):
    """A wrong path, an empty folder, a file with no sample, a file of another kind, half a file, no storage."""
    empty, half, text = tmp_path / "empty", tmp_path / "half.parquet", tmp_path / "notes.txt"
    empty.mkdir()
    half.write_bytes(write(tmp_path, row(1)).read_bytes()[:-20])
    text.write_text("x")
    none = tmp_path / "none.jsonl"
    none.write_text("\n")
    for source, words in (
        (tmp_path / "nowhere", "is not there; correct recording.source"),
        (empty, r"is a folder with no \.parquet or \.jsonl file in it"),
        (none, "its files hold no sample"),
        (write(tmp_path, name="nothing.parquet"), "its files hold no sample"),
        (text, "is neither .parquet nor .jsonl"),
        (half, "is no whole Parquet file"),
        ("gopher://x/y", "is no storage that can be read"),
    ):
        with pytest.raises(RecordingError, match=words):
            read(source)


@pytest.mark.parametrize("what", ["minilm", "minilm/2026-03-01.parquet"], ids=["folder", "file"])
def test_an_object_store_is_read_like_a_folder(tmp_path, what):
    (tmp_path / "minilm").mkdir()
    rows = (row(1, 2), row(*range(60)))
    write(tmp_path / "minilm", *rows)
    with bucket(tmp_path) as uri:
        got = read(uri.format(what))
    assert got == recording(*rows)
    assert same_samples(got.rows, rows)


def test_a_storage_that_refuses_can_be_tried_again_and_no_key_is_told(tmp_path):
    """The credentials in the address stay out of the log."""
    with (
        bucket(tmp_path, refuse=True) as uri,
        pytest.raises(RetryableError, match="its credentials") as caught,
    ):
        read(uri.format("minilm"))
    assert "secret" not in str(caught.value)
    assert f"s3://…@{BUCKET}/minilm" in str(caught.value)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_a_permission_is_no_matter_for_a_retry_and_a_storage_that_is_away_is(number):
    fatal = recordings._away("/data", OSError(number, os.strerror(number)))
    assert isinstance(fatal, RecordingError)
    assert "user and group" in fatal.next_step
    assert isinstance(recordings._away("s3://b/x", OSError("timed out")), RetryableError)
