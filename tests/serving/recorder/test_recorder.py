"""The recorder as a process: what it keeps, what it never keeps, how it begins again and ends."""

import json
import stat
import subprocess
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
import yaml

from serving.recorder.days import Days
from serving.recorder.metrics import REASONS
from serving.recorder.secret import salt_of
from tests.serving.recorder import process
from tests.serving.recorder.process import recorder, request, token_rows
from tests.serving.runtime.server import Client
from tests.sluice.specs import whole

HEADERS = {
    "Content-Type": "application/json",
    "x-user-id": "someone@example.org",
    "Cookie": "session=hush",
    "X-Forwarded-For": "203.0.113.7",
}
PATH = "/v2/models/minilm/infer"
SAMPLE = {name: np.array([1, 2]) for name in ("input_ids", "attention_mask")}


def send(client, *bodies, path=PATH, headers=HEADERS):
    for body in bodies:
        answer = client.ask("POST", path, body, headers)
        assert (answer.status, answer.body) == (200, b"")


def dropped(client):
    return {
        reason: int(count)
        for reason in REASONS
        if (count := client.metric("sluice_recorder_dropped_total", service="minilm", reason=reason))
    }


def test_every_row_is_a_sample_and_equal_ones_are_one_content(tmp_path):
    """Three requests of six rows: four contents, their counts, lengths and strata; the day and nothing finer."""
    with recorder(tmp_path) as running:
        client = Client(running.port)
        send(client, request([1, 2], [3, 4]), request([1, 2], [1, 2]), request([5] * 20, [6] * 20))
        assert running.end() == 0
    found = running.recording()
    kept = {
        tuple(row.sample["input_ids"].tolist()): (row.count, row.stratum, row.length) for row in found.rows
    }
    assert kept == {
        (1, 2): (3, "short-frequent", 2),
        (3, 4): (1, "short-rare", 2),
        (5,) * 20: (1, "long-rare", 20),
        (6,) * 20: (1, "long-rare", 20),
    }
    assert (found.seen, found.lengths) == (6, {2: 4, 20: 2})
    assert {row.first_seen for row in found.rows} <= {datetime.now(UTC).date() - timedelta(n) for n in (0, 1)}


def test_nothing_but_the_inputs_is_kept(tmp_path):
    """Not in the files, not in the metrics, not in what it prints: headers, query, request id, other parameters."""
    told = ["someone", "hush", "203.0.113.7", "request-77", "tenant-9", "query-5", "127.0.0.1:"]
    with recorder(tmp_path, "--flush-s", "0.05") as running:
        client = Client(running.port)
        send(
            client,
            request([1, 2], id="request-77", parameters={"tenant": "tenant-9"}),
            path=f"{PATH}?q=query-5",
        )
        send(client, b"tenant-9 {", path=f"{PATH}?q=query-5")
        metrics = client.get("/metrics").body.decode()
        assert running.end() == 0
    assert running.recording().seen == 1
    held = b"".join(path.read_bytes() for path in running.out.rglob("*") if path.is_file())
    printed = "\n".join(line for line in running.lines if not line.startswith("listening"))
    for text in told:
        assert text.encode() not in held
        assert text not in metrics
        assert text not in printed


def test_what_is_no_sample_is_counted_by_reason_and_not_kept(tmp_path):
    """Each is answered 200 all the same: the gateway has nobody to tell."""
    wrong_type = json.dumps(
        {"inputs": [{"name": "input_ids", "shape": [1, 1], "datatype": "FP32", "data": [0.5]}]}
    )
    with recorder(tmp_path) as running:
        client = Client(running.port)
        send(client, b"{", b"\xff", wrong_type.encode(), request([1] * 65), request(*[[1, 1]] * 9))
        send(client, b"", path="/v2/models/minilm/ready")
        assert client.get("/v2/models/minilm").status == 200
        send(client, request([1, 2]))
        assert dropped(client) == {"unreadable": 5, "not_infer": 2}
        assert client.ask("POST", "/v2/models/minilm2/infer", request([1, 1])).status == 404
        assert client.get("/healthz").body == b"ok\n"
        assert running.end() == 0
    assert token_rows(running.recording()) == [[1, 2]]


def test_a_length_that_the_server_pads_but_the_spec_does_not_have_is_no_sample(tmp_path):
    """Calibration's reader would refuse the whole file for it. Of a batch, only such rows are left out."""
    with recorder(tmp_path) as running:
        client = Client(running.port)
        send(client, request([4]), request([4], [5]), request([4, 5]))
        assert dropped(client) == {"no_sample": 3}
        assert running.end() == 0
    assert token_rows(running.recording()) == [[4, 5]]


def test_a_body_above_the_limit_is_refused_and_the_next_one_is_taken(tmp_path):
    with recorder(tmp_path, "--max-body-bytes", "2000") as running:
        assert Client(running.port).ask("POST", PATH, b"x" * 3000).status == 413
        client = Client(running.port)
        send(client, request([1, 1]))
        assert client.metric("sluice_recorder_refused_total") == 1
        assert running.end() == 0
    assert running.recording().seen == 1


# --- redaction -----------------------------------------------------------------------------------

SENT = [[1, 2], [7, 1234], [7, 5678], [9] * 5]
HOOKS = {
    "mask": ([[1, 2], [7, 0], [9] * 5], {}),  # the two masked ones are one content: it comes before the hash
    "drop_long": ([[1, 2], [7, 1234], [7, 5678]], {"redacted": 1}),
    "raising": ([], {"redaction_failed": 4}),
    "broken": ([], {"redaction_failed": 4}),
}


@pytest.mark.parametrize(
    ("hook", "kept", "counted"), [(name, *want) for name, want in HOOKS.items()], ids=HOOKS
)
def test_redaction_comes_first(tmp_path, hook, kept, counted):
    """What the hook takes out is nowhere; one that fails drops the sample and says nothing of it."""
    with recorder(tmp_path, redact=f"tests.serving.recorder.hooks:{hook}") as running:
        client = Client(running.port)
        send(client, *(request(row) for row in SENT))
        assert dropped(client) == counted
        assert running.end() == 0
    assert not any("saw" in line for line in running.lines)
    if kept:
        assert token_rows(running.recording()) == sorted(kept)
    else:
        assert list(running.out.glob("minilm/*")) == []


# --- life ----------------------------------------------------------------------------------------


def test_a_restart_goes_on_with_the_days_file(tmp_path):
    """Counts go on, and the hashes are the same: the salt is kept."""
    for bodies in ([[1, 2], [3, 4]], [[1, 2], [5, 6]], [[1, 2]]):
        with recorder(tmp_path) as running:
            send(Client(running.port), *(request(row) for row in bodies))
            assert running.end() == 0
    found = running.recording()
    assert {tuple(row.sample["input_ids"].tolist()): row.count for row in found.rows} == {
        (1, 2): 3,
        (3, 4): 1,
        (5, 6): 1,
    }
    assert (found.seen, found.strata) == (5, {"short-frequent": 3, "short-rare": 2})
    assert len(list((running.out / "minilm").glob("*.parquet"))) <= 2  # two at midnight


def test_it_writes_while_it_runs_and_a_kill_costs_what_came_since(tmp_path):
    with recorder(tmp_path, "--flush-s", "0.05") as running:
        send(Client(running.port), request([1, 2]))
        while not running.lines[-1].startswith("minilm: wrote"):
            running.lines.append(running.process.stdout.readline().strip())
        running.process.kill()
        running.process.wait()
    assert token_rows(running.recording()) == [[1, 2]]


def test_contents_whose_days_are_over_are_deleted_at_the_next_write(tmp_path):
    """Of the recorder's own files alone."""
    today = datetime.now(UTC).date()
    folder = tmp_path / "out" / "minilm"
    folder.mkdir(parents=True)
    days = {age: folder / f"{today - timedelta(days=age)}.parquet" for age in (2, 3, 5, 400)}
    for path in (*days.values(), folder / "mine.parquet"):
        path.write_bytes(b"old")
    with recorder(tmp_path, retention_days=3) as running:
        send(Client(running.port), request([1, 2]))
        assert running.end() == 0
    left = {path.name for path in folder.glob("*.parquet")}
    assert left >= {days[2].name, "mine.parquet"}
    assert not left & {days[5].name, days[400].name}


def test_a_new_day_has_a_file_of_its_own_and_the_old_one_leaves_memory(tmp_path):
    """Seen once a day on three days is rare on each; what was written is not held."""
    days, day = Days(process.spec(), tmp_path, "salt"), date(2026, 3, 1)
    for later in range(3):
        today = day + timedelta(days=later)
        assert days.take([SAMPLE], today) == 1
        drafts = days.drafts()
        assert [draft.day for draft in drafts] == [today]
        days.write(drafts[0])
        days.wrote(drafts[0], today + timedelta(days=1))
        assert days.drafts() == []
    found = process.read(tmp_path)
    assert [(row.count, row.first_seen, row.last_seen) for row in found.rows] == [
        (3, day, day + timedelta(days=2))
    ]
    assert [row.stratum for row in found.rows] == ["short-frequent"]


def test_a_day_that_the_disk_refuses_is_held_for_one_more(tmp_path):
    """Memory stays bounded: of three days, the two newest."""
    days = Days(process.spec(), tmp_path, "salt")
    first = date(2026, 3, 1)
    for later in range(3):
        days.take([SAMPLE], first + timedelta(days=later))
    assert [draft.day.day for draft in days.drafts()] == [2, 3]


def test_the_salt_is_a_secret_of_its_own(tmp_path):
    """Made once, 0600, read again; shared with others or cut short it is refused."""
    path = tmp_path / "keys" / "salt"
    salt = salt_of(path)
    assert len(salt) == 64
    assert salt_of(path) == salt
    assert salt_of(tmp_path / "other") != salt
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["salt"]
    path.chmod(0o640)
    with pytest.raises(Exception, match=r"others may use it \(mode has 040 for them\); chmod 600"):
        salt_of(path)
    path.chmod(0o600)
    path.write_text("short")
    with pytest.raises(Exception, match="has 5 characters, wanted 32 or more"):
        salt_of(path)


def test_files_are_nobodys_but_the_recorders_and_its_groups(tmp_path):
    with recorder(tmp_path) as running:
        send(Client(running.port), request([1, 1]))
        assert running.end() == 0
    for path in running.out.rglob("*"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o007, path


def ended(*arguments):
    ran = subprocess.run(arguments, cwd=process.ROOT, capture_output=True, text=True, timeout=60, check=False)
    return ran.returncode, ran.stderr.strip().splitlines()[-1]


def test_what_cannot_be_used_ends_with_one_line_that_says_what_to_do(tmp_path):
    """Exit 3: no section, no hook, another model's file; 4: a taken folder."""
    spec, out = process.write_spec(tmp_path), tmp_path / "out"
    command = process.command(out, spec)
    for redact, words in (
        ("no_such_module:hook", "cannot be imported (ModuleNotFoundError"),
        ("tests.serving.recorder.hooks:NO_FUNCTION", "is a int, not a function"),
    ):
        process.write_spec(tmp_path, redact=redact)
        code, line = ended(*command)
        assert (code, line.startswith("error: recording.redact")) == (3, True)
        assert words in line
    process.write_spec(tmp_path)
    assert ended(*command, "--spec", str(spec)) == (
        3,
        "error: --spec: two specs have service 'minilm'; name each service once",
    )
    plain = tmp_path / "plain.yaml"
    plain.write_text(yaml.safe_dump(whole()))
    assert ended(*process.command(out, plain)) == (
        3,
        (
            f"error: --spec {plain} has no recording.recorder, so nothing is copied to one; write "
            "recording.percent and recording.recorder, or leave this spec out"
        ),
    )
    code, line = ended(*process.command(out, tmp_path / "none.yaml"))
    assert (code, "none.yaml cannot be read" in line) == (3, True)
    with recorder(tmp_path):
        code, line = ended(*command)
        assert (code, line) == (
            4,
            f"error: --out {out}: another recorder writes there; end it, or give each recorder a folder of its own",
        )


def test_a_days_file_of_other_inputs_is_set_aside_and_the_day_begins_anew(tmp_path):
    """The spec changed: the file stays under a name that no reader takes, and the rest of the day is recorded."""
    folder = tmp_path / "out" / "minilm"
    folder.mkdir(parents=True)
    for name in (datetime.now(UTC).date(), datetime.now(UTC).date() + timedelta(days=1)):
        (folder / f"{name}.parquet").write_bytes(b"another model's")
    with recorder(tmp_path) as running:
        send(Client(running.port), request([1, 2]))
        assert running.end() == 0
    (today,) = (path for path in folder.glob(".*.unreadable"))
    assert today.read_bytes() == b"another model's"
    whole = folder / today.name.removeprefix(".").removesuffix(".unreadable")
    assert whole.read_bytes()[:4] == b"PAR1"


def test_a_sight_that_comes_while_its_day_is_written_is_not_lost(tmp_path):
    """Midnight: the day is over, and one more sight came between the draft and its write."""
    days = Days(process.spec(), tmp_path, "salt")
    day = date(2026, 2, 28)
    tokens = {name: np.ones(2, np.int64) for name in ("input_ids", "attention_mask")}
    days.take([tokens], day)
    (draft,) = days.drafts()
    days.take([tokens], day)
    days.write(draft)
    days.wrote(draft, day + timedelta(days=1))
    (again,) = days.drafts()
    assert again.recording.seen == 2


def test_a_file_of_a_day_that_never_was_stops_no_write(tmp_path):
    days = Days(process.spec(), tmp_path, "salt")
    days.folder.mkdir(parents=True)
    for name in ("2026-02-30", "2020-01-01"):
        (days.folder / f"{name}.parquet").write_bytes(b"x")
    assert [path.name for path in days.clean(date(2026, 3, 1))] == ["2020-01-01.parquet"]
