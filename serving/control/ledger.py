"""The ledger: what was decided, by whom, from which numbers. The world follows it, never the other way round.

Three invariants hold in the database itself, not by good behaviour of the code above it:
  - decisions are append-only: this module has no statement that updates or deletes one;
  - a rollout moves by compare-and-set on (epoch, counter), in the same transaction as its decision row, so that
    two writers that saw the same state cannot both win;
  - a service has at most one active rollout (a partial unique index).
Functions take the caller's session and never commit: `with ledger.write() as session:` is the unit of work.
SQLite (WAL) and PostgreSQL: nothing here is special to one, but for the locking word at the start of a write.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    create_engine,
    delete,
    event,
    select,
    text,
    update,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

BUSY_TIMEOUT_MS: Final = 250  # another process (a backup) may hold the lock; the event loop waits for it
READ: Final = "sluice_read"  # execution option of sessions that only read
_COLUMNS: Final = ("id", "service", "run_id", "release_digest", "epoch", "counter", "state", "ended_at")


class StaleHeadError(Exception):
    """Another writer moved the rollout (or began one) between this caller's read and its write."""


class _Base(DeclarativeBase):
    pass


class DecisionRow(_Base):
    """One decision, never changed afterwards. Times are ISO-8601 UTC with microseconds (they sort as text)."""

    __tablename__ = "decisions"
    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    at: Mapped[str] = mapped_column(String(40))
    rollout: Mapped[str] = mapped_column(String(80), index=True)
    service: Mapped[str] = mapped_column(String(40), index=True)
    epoch: Mapped[int] = mapped_column(Integer)
    action: Mapped[str] = mapped_column(String(40))
    from_state: Mapped[str | None] = mapped_column(String(20))
    to_state: Mapped[str] = mapped_column(String(20))
    stage: Mapped[int | None] = mapped_column(Integer)
    by: Mapped[str] = mapped_column("actor", String(200))
    reason: Mapped[str | None] = mapped_column(Text)
    verdict: Mapped[dict[str, Any] | None] = mapped_column(JSON)


class HeadRow(_Base):
    """Where a rollout stands now. `body` holds the fields of `Head` that no statement searches by."""

    __tablename__ = "heads"
    id: Mapped[str] = mapped_column(String(80), primary_key=True)
    service: Mapped[str] = mapped_column(String(40))
    run_id: Mapped[str] = mapped_column(String(250))
    release_digest: Mapped[str] = mapped_column(String(80))
    epoch: Mapped[int] = mapped_column(Integer)
    counter: Mapped[int] = mapped_column(Integer)
    state: Mapped[str] = mapped_column(String(20))
    ended_at: Mapped[str | None] = mapped_column(String(40))
    body: Mapped[dict[str, Any]] = mapped_column(JSON)
    __table_args__ = (
        Index("one_rollout_a_run", "service", "run_id", unique=True),
        Index(
            "one_active_rollout_a_service",
            "service",
            unique=True,
            sqlite_where=text("ended_at IS NULL"),
            postgresql_where=text("ended_at IS NULL"),
        ),
    )


class ServiceRow(_Base):
    """What a service serves when no rollout touches it."""

    __tablename__ = "services"
    service: Mapped[str] = mapped_column(String(40), primary_key=True)
    epoch: Mapped[int] = mapped_column(Integer)
    salt: Mapped[str] = mapped_column(String(80))
    policy: Mapped[dict[str, Any]] = mapped_column(JSON)
    stable: Mapped[dict[str, Any] | None] = mapped_column(JSON)


class SnapshotRow(_Base):
    """The newest copy of what the controller had counted, so that a restart goes on counting; of live rollouts."""

    __tablename__ = "snapshots"
    key: Mapped[str] = mapped_column(String(120), primary_key=True)
    at: Mapped[str] = mapped_column(String(40))
    body: Mapped[bytes] = mapped_column(LargeBinary)


@dataclass(frozen=True, kw_only=True)
class Head:
    """One rollout as the ledger has it. `counter` is the compare-and-set's version, +1 at every write."""

    id: str
    service: str
    run_id: str
    release_digest: str
    epoch: int
    counter: int
    state: str
    policy: Mapping[str, Any]
    salt: str
    started_at: str
    stage: int | None = None
    candidate: Mapping[str, Any] | None = None
    stable: Mapping[str, Any] | None = None
    held: Mapping[str, Any] | None = None
    opened: Sequence[Mapping[str, Any]] = ()
    verdict: Mapping[str, Any] | None = None
    exposed: Mapping[str, Any] | None = None
    reason: str | None = None
    retry_reason: str | None = None
    earlier: Mapping[str, Any] | None = None
    first_deployment: bool = False
    lease_until: str | None = None
    zero_acked_at: str | None = None
    ended_at: str | None = None

    @property
    def active(self) -> bool:
        return self.ended_at is None

    @property
    def percents(self) -> tuple[float, ...]:
        """Share of traffic of each stage, in percent."""
        return tuple(stage["percent"] for stage in self.policy["stages"])

    @property
    def percent(self) -> float:
        """The candidate's share now, in percent: 0 when no stage is open or the candidate was turned back."""
        if self.stage is None or self.state not in ("running", "promoted"):
            return 0
        return self.percents[self.stage]

    @property
    def settled(self) -> bool:
        """Whether no gateway can still route to this rollout's candidate as to a candidate."""
        return not self.opened or self.state == "promoted" or self.zero_acked_at is not None


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What one ledger row says. `by` is the person or part that decided."""

    at: str
    action: str
    by: str
    reason: str | None = None
    verdict: Mapping[str, Any] | None = None


class Ledger:
    """The database behind the controller. Raises sqlalchemy's errors when it cannot be reached."""

    def __init__(self, url: str) -> None:
        self.engine = create_engine(url, pool_pre_ping=True)
        if self.engine.dialect.name == "sqlite":
            event.listen(self.engine, "connect", _prepare_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
        _Base.metadata.create_all(self.engine)
        self._write = sessionmaker(self.engine, expire_on_commit=False)
        self._read = sessionmaker(self.engine.execution_options(**{READ: True}), expire_on_commit=False)

    @contextmanager
    def write(self) -> Iterator[Session]:
        """One transaction: commits at the end of the block, rolls back when it raises."""
        with self._write.begin() as session:
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """One consistent view; on SQLite it waits for no writer."""
        with self._read.begin() as session:
            yield session

    def close(self) -> None:
        self.engine.dispose()

    def head(self, rollout: str) -> Head | None:
        with self.read() as session:
            row = session.get(HeadRow, rollout)
            return None if row is None else _head(row)

    def heads(self, *, active: bool) -> list[Head]:
        """All rollouts, or only the active ones, oldest first."""
        query = select(HeadRow).order_by(HeadRow.epoch)
        if active:
            query = query.where(HeadRow.ended_at.is_(None))
        with self.read() as session:
            return [_head(row) for row in session.scalars(query)]

    def service(self, name: str) -> ServiceRow | None:
        with self.read() as session:
            return session.get(ServiceRow, name)

    def services(self) -> list[ServiceRow]:
        with self.read() as session:
            return list(session.scalars(select(ServiceRow).order_by(ServiceRow.service)))

    def decisions(self, *, service: str | None = None, rollout: str | None = None) -> list[DecisionRow]:
        """Ledger rows, oldest first."""
        query = select(DecisionRow).order_by(DecisionRow.id)
        if service is not None:
            query = query.where(DecisionRow.service == service)
        if rollout is not None:
            query = query.where(DecisionRow.rollout == rollout)
        with self.read() as session:
            return list(session.scalars(query))

    def save_snapshots(self, at: str, bodies: Mapping[str, bytes]) -> None:
        with self.write() as session:
            for key, body in bodies.items():
                session.merge(SnapshotRow(key=key, at=at, body=body))

    def snapshot(self, key: str) -> bytes | None:
        with self.read() as session:
            row = session.get(SnapshotRow, key)
            return None if row is None else row.body


def find_run(session: Session, service: str, run_id: str) -> Head | None:
    row = session.scalar(select(HeadRow).where(HeadRow.service == service, HeadRow.run_id == run_id))
    return None if row is None else _head(row)


def find_active(session: Session, service: str) -> Head | None:
    row = session.scalar(select(HeadRow).where(HeadRow.service == service, HeadRow.ended_at.is_(None)))
    return None if row is None else _head(row)


def find_latest(session: Session, service: str) -> Head | None:
    """The service's newest rollout, active or ended."""
    query = select(HeadRow).where(HeadRow.service == service).order_by(HeadRow.epoch.desc()).limit(1)
    row = session.scalar(query)
    return None if row is None else _head(row)


def find_ended(session: Session, service: str, release_digest: str, state: str) -> list[Head]:
    """Rollouts of one release that ended in `state`, oldest first."""
    query = select(HeadRow).where(
        HeadRow.service == service, HeadRow.release_digest == release_digest, HeadRow.state == state
    )
    return [_head(row) for row in session.scalars(query.order_by(HeadRow.epoch))]


def create(session: Session, head: Head, decision: Decision) -> None:
    """Insert a new rollout and its first row. sqlalchemy's IntegrityError: the service has an active one."""
    session.add(HeadRow(**_columns(head), body=_body(head)))
    session.add(_row(head, decision, from_state=None))
    session.flush()


def move(session: Session, old: Head, new: Head, decision: Decision | None) -> Head:
    """Compare-and-set `old` to `new` and append the decision. Returns `new` with its counter.

    `decision` None: bookkeeping that decides nothing (an acknowledgement came, the lease was renewed).
    A rollout that ends takes its snapshot with it: nobody goes on counting for it.
    Raises StaleHeadError, and writes nothing, when `old` is no longer what the ledger holds.
    """
    values = _columns(new) | {"counter": old.counter + 1}
    here = update(HeadRow).where(
        HeadRow.id == old.id, HeadRow.epoch == old.epoch, HeadRow.counter == old.counter
    )
    if session.execute(here.values(**values, body=_body(new))).rowcount != 1:
        raise StaleHeadError(old.id)
    if decision is not None:
        session.add(_row(new, decision, from_state=old.state))
    if old.active and not new.active:
        session.execute(delete(SnapshotRow).where(SnapshotRow.key == old.id))
    session.flush()
    return Head(**{f.name: getattr(new, f.name) for f in fields(Head)} | {"counter": old.counter + 1})


def _columns(head: Head) -> dict[str, Any]:
    return {name: getattr(head, name) for name in _COLUMNS}


def _body(head: Head) -> dict[str, Any]:
    return {name: value for name, value in asdict(head).items() if name not in _COLUMNS}


def _head(row: HeadRow) -> Head:
    return Head(**{name: getattr(row, name) for name in _COLUMNS}, **row.body)


def _row(head: Head, decision: Decision, *, from_state: str | None) -> DecisionRow:
    return DecisionRow(
        at=decision.at,
        rollout=head.id,
        service=head.service,
        epoch=head.epoch,
        action=decision.action,
        from_state=from_state,
        to_state=head.state,
        stage=head.stage,
        by=decision.by,
        reason=decision.reason,
        verdict=None if decision.verdict is None else dict(decision.verdict),
    )


def _begin_sqlite(connection: Any) -> None:
    """A writer takes the lock at its start, so that it cannot fail half-way because another one was faster."""
    connection.exec_driver_sql("BEGIN" if connection.get_execution_options().get(READ) else "BEGIN IMMEDIATE")


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    """WAL so that readers never wait; FULL so that a recorded verdict survives a power cut.

    `isolation_level = None` leaves BEGIN to `_begin_sqlite`.
    """
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={BUSY_TIMEOUT_MS}"):
        connection.execute(f"PRAGMA {pragma}").close()
