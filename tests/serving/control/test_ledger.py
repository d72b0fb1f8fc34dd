"""What the database itself holds, whoever writes."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError
from sqlalchemy.schema import CreateIndex, CreateTable

from serving.control import ledger as module
from serving.control.ledger import Decision, Head, Ledger, StaleHeadError, create, move

NOON = "2026-01-01T12:00:00.000000+00:00"
BEGIN = Decision(at=NOON, action="begin", by="run-1")


def head(number: int = 1, **changes: object) -> Head:
    made = Head(
        id=f"m-{number}",
        service="m",
        run_id=f"run-{number}",
        release_digest="d",
        epoch=number,
        counter=0,
        state="preparing",
        policy={"stages": [{"percent": 1}, {"percent": 100}]},
        salt="s",
        started_at=NOON,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")


def test_of_two_writers_that_saw_the_same_state_one_loses_and_leaves_nothing(ledger: Ledger) -> None:
    with ledger.write() as session:
        create(session, head(), BEGIN)
    seen = ledger.head("m-1")
    assert seen is not None
    with ledger.write() as session:
        move(session, seen, replace(seen, state="running", stage=0), Decision(at=NOON, action="open", by="a"))
    with pytest.raises(StaleHeadError), ledger.write() as session:
        move(session, seen, replace(seen, state="cancelled"), Decision(at=NOON, action="cancel", by="b"))
    assert [row.action for row in ledger.decisions()] == ["begin", "open"]
    assert ledger.head("m-1") == replace(seen, state="running", stage=0, counter=1)


def test_another_epoch_never_matches(ledger: Ledger) -> None:
    with ledger.write() as session:
        create(session, head(), BEGIN)
    with pytest.raises(StaleHeadError), ledger.write() as session:
        move(session, head(epoch=2), head(epoch=2, state="running"), None)


def test_a_transaction_that_fails_writes_nothing(ledger: Ledger) -> None:
    def two() -> None:
        with ledger.write() as session:
            create(session, head(1), BEGIN)
            create(session, head(2), BEGIN)

    with pytest.raises(IntegrityError):
        two()
    assert (ledger.head("m-1"), ledger.decisions()) == (None, [])


def test_a_service_has_one_active_rollout_at_most(ledger: Ledger) -> None:
    with ledger.write() as session:
        create(session, head(1), BEGIN)
    with pytest.raises(IntegrityError), ledger.write() as session:
        create(session, head(2), BEGIN)
    seen = ledger.head("m-1")
    assert seen is not None
    with ledger.write() as session:
        move(session, seen, replace(seen, ended_at=NOON, state="cancelled"), None)
        create(session, head(2), BEGIN)
    assert [h.id for h in ledger.heads(active=True)] == ["m-2"]


def test_a_run_has_one_rollout_for_ever(ledger: Ledger) -> None:
    with ledger.write() as session:
        create(session, head(1, ended_at=NOON), BEGIN)
    with pytest.raises(IntegrityError), ledger.write() as session:
        create(session, head(2, run_id="run-1"), BEGIN)


def test_a_head_survives_the_database_unchanged(ledger: Ledger) -> None:
    full = head(
        candidate={"version": "2", "workloads": [{"arch": "cpu", "endpoints": [{"host": "h", "port": 1}]}]},
        opened=[{"stage": 0, "percent": 1, "at": NOON, "acked_at": None}],
        verdict={"action": "hold", "numbers": {"x": 0.1}},
        held={"since": NOON, "reason": "r", "by": "b"},
        lease_until=NOON,
    )
    with ledger.write() as session:
        create(session, full, BEGIN)
    assert ledger.head("m-1") == full


def test_readers_do_not_wait_for_a_writer(ledger: Ledger) -> None:
    with ledger.write() as session:
        create(session, head(), BEGIN)
        assert ledger.head("m-1") is None
    assert ledger.head("m-1") is not None


def test_decisions_are_never_updated_or_deleted() -> None:
    """No statement of the module can: the only update is that of heads, the only delete that of snapshots."""
    source = inspect.getsource(module)
    assert source.count("update(") == 1
    assert "update(HeadRow)" in source
    assert source.count("delete(") == 1
    assert "delete(SnapshotRow)" in source


def test_a_rollout_that_ends_leaves_no_snapshot_behind(ledger: Ledger) -> None:
    """They are the largest rows, and nobody goes on counting for what is over."""
    with ledger.write() as session:
        create(session, head(), BEGIN)
    ledger.save_snapshots(NOON, {"m-1": b"counts", "addresses": b"{}"})
    for changes in ({"state": "running"}, {"state": "running", "ended_at": NOON}):
        assert ledger.snapshot("m-1") == b"counts"
        seen = ledger.head("m-1")
        assert seen is not None
        with ledger.write() as session:
            move(session, seen, replace(seen, **changes), None)
    assert (ledger.snapshot("m-1"), ledger.snapshot("addresses")) == (None, b"{}")


@pytest.mark.parametrize("dialect", [sqlite.dialect(), postgresql.dialect()], ids=["sqlite", "postgresql"])
def test_the_schema_is_one_for_both_databases(dialect: object) -> None:
    """PostgreSQL gets the same partial unique index; without it two controllers could begin twice."""
    texts = [
        str(CreateTable(table).compile(dialect=dialect)) for table in module._Base.metadata.sorted_tables
    ]
    assert len(texts) == 4
    indexes = [str(CreateIndex(i).compile(dialect=dialect)) for i in module.HeadRow.__table__.indexes]
    assert any("UNIQUE" in text and "WHERE ended_at IS NULL" in text for text in indexes)
