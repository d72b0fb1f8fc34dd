"""Container logs on disk in the CRI format (`time stream tag text`), written once, read by any number.

Invariant: a follower sees every line once and in order, wakes on writes only (no polling), and ends when the
container instance has ended and everything written is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from local.cluster.errors import bad_request
from local.cluster.objects import parse_time

_LINE_BYTES: Final = 64 * 1024  # a longer line is cut in pieces, as the CRI does at 16 KiB
MESSAGE_BYTES: Final = 2048  # FallbackToLogsOnError: the tail that Kubernetes takes
MESSAGE_LINES: Final = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class LogQuery:
    """The query of GET …/log. `since`: lines from then on; `limit_bytes` cuts the whole answer."""

    follow: bool = False
    timestamps: bool = False
    tail_lines: int | None = None
    since: datetime | None = None
    limit_bytes: int | None = None

    @classmethod
    def parse(cls, query: dict[str, str]) -> LogQuery:
        """Raises 400 naming the parameter."""
        since = None
        if "sinceSeconds" in query:
            since = datetime.now(UTC) - timedelta(seconds=_whole(query, "sinceSeconds", 1) or 0)
        elif "sinceTime" in query:
            try:
                since = parse_time(query["sinceTime"])
            except ValueError as error:
                raise bad_request(f"sinceTime={query['sinceTime']!r} is not RFC 3339") from error
        return cls(
            follow=query.get("follow") in {"true", "True", "1"},
            timestamps=query.get("timestamps") in {"true", "True", "1"},
            tail_lines=_whole(query, "tailLines", 0),
            since=since,
            limit_bytes=_whole(query, "limitBytes", 1),
        )


def _whole(query: dict[str, str], name: str, least: int) -> int | None:
    if name not in query:
        return None
    if not query[name].isdigit() or int(query[name]) < least:
        raise bad_request(f"{name}={query[name]!r} is not a whole number of at least {least}")
    return int(query[name])


class ContainerLog:
    """The output of one instance of a container."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file = path.open("ab", buffering=0)
        self._rest = b""
        self._written = asyncio.Event()  # replaced at each write, so that every waiter wakes once
        self._closed = False

    def feed(self, data: bytes) -> None:
        """Takes raw output as it comes off the pipe. OSError: these lines are lost; later ones may not be."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        while len(self._rest) > _LINE_BYTES:
            lines.append(self._rest[:_LINE_BYTES])
            self._rest = self._rest[_LINE_BYTES:]
        self._write(lines)

    def close(self) -> None:
        """Closed whatever happens. OSError: the end of the output could not be written."""
        try:
            if self._rest:
                self._write([self._rest])
        finally:
            self._rest = b""
            if not self._closed:
                self._closed = True
                self._file.close()
                self._wake()

    def _write(self, lines: list[bytes]) -> None:
        """All of them or, with OSError, none: half a line could not be read, nor what comes behind it."""
        if not lines or self._closed:
            return
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z").encode()
        data = b"".join(stamp + b" stdout F " + line + b"\n" for line in lines)
        before, written = os.fstat(self._file.fileno()).st_size, 0
        try:
            written = self._file.write(data)
        finally:
            if written != len(data):
                with contextlib.suppress(OSError):
                    self._file.truncate(before)
        if written != len(data):  # a disk that fills up takes a part, and says nothing yet
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        self._wake()

    def _wake(self) -> None:
        self._written.set()
        self._written = asyncio.Event()

    def tail(self) -> str:
        """The last lines as a termination message: at most 80 lines and 2048 bytes."""
        lines = deque((text for _, text in self._parsed()), maxlen=MESSAGE_LINES)
        return b"\n".join(lines)[-MESSAGE_BYTES:].decode(errors="replace")

    def _parsed(self) -> Iterator[tuple[bytes, bytes]]:
        with self._path.open("rb") as file:
            for line in file:
                stamp, _, _, text = line.rstrip(b"\n").split(b" ", 3)
                yield stamp, text

    async def read(self, query: LogQuery) -> AsyncIterator[bytes]:
        """Pieces of the answer; follows until the instance ends when the query says so."""
        left = query.limit_bytes
        async for line in self._lines(query):
            yield line if left is None else line[:left]
            if left is not None:
                left -= len(line)
                if left <= 0:
                    return

    async def _lines(self, query: LogQuery) -> AsyncIterator[bytes]:
        with self._path.open("rb") as file:
            # A file's lines end at \n alone; bytes.splitlines() would cut a progress bar at each of its \r.
            shown = [text for line in file if (text := _shown(line, query)) is not None]
            if query.tail_lines is not None:
                shown = shown[len(shown) - min(query.tail_lines, len(shown)) :]
            if shown:
                yield b"".join(shown)
            while query.follow:
                written, closed = self._written, self._closed
                if lines := file.readlines():
                    yield b"".join(text for line in lines if (text := _shown(line, query)) is not None)
                elif closed:
                    return
                else:
                    await written.wait()


def _shown(line: bytes, query: LogQuery) -> bytes | None:
    stamp, _, _, text = line.split(b" ", 3)
    if query.since is not None and parse_time(stamp.decode()) < query.since:
        return None
    return stamp + b" " + text if query.timestamps else text
