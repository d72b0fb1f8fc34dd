"""The load is open-loop, sticky and blind; its journal has one line a request."""

import asyncio
import json

import pytest
from aiohttp import web

from local.load.client import Load, anonymous, bodies_of, body_of, run
from local.load.journal import Sent, read
from sluice.errors import FatalError


async def serve(handler):
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}/infer"


async def drive(handler, *, requests, rate_rps=2000.0):
    """Run the client against `handler` until it has seen `requests`; the journal rows."""
    stop = asyncio.Event()
    seen = []

    async def counting(request):
        seen.append(request)
        if len(seen) >= requests:
            stop.set()
        return await handler(request)

    runner, url = await serve(counting)
    lines = []
    load = Load(url=url, uid_header="x-user-id", rate_rps=rate_rps, users=50, seed=3, timeout_s=5)
    await run(load, [body_of({"input_ids": [1, 2, 3]})], lines.append, stop)
    await runner.cleanup()
    return [Sent.from_line(line) for line in lines], seen


async def test_every_request_has_one_line_with_version_and_status():
    async def handler(request):
        await request.read()
        return web.Response(
            status=500, headers={"x-sluice-version": "7", "x-envoy-upstream-service-time": "4"}
        )

    rows, seen = await drive(handler, requests=40)
    assert len(rows) == len(seen)
    assert {(row.version, row.status, row.failed, row.tokens) for row in rows} == {("7", 500, True, 3)}
    assert all(row.sent_at_s <= row.ended_at_s for row in rows)
    assert all(row.routed_by_s == pytest.approx(row.ended_at_s - 0.004) for row in rows)


async def test_a_slow_server_does_not_slow_the_schedule():
    """Requests leave while none has been answered: a closed loop would have sent one."""
    release = asyncio.Event()
    arrived = []

    async def handler(request):
        arrived.append(1)
        if len(arrived) >= 30:
            release.set()
        await release.wait()
        return web.Response(headers={"x-sluice-version": "1"})

    rows, _ = await drive(handler, requests=30)
    assert len(rows) >= 30


async def test_a_closed_connection_is_a_failed_request_not_a_lost_one():
    async def handler(request):
        request.transport.abort()
        return web.Response()

    rows, _ = await drive(handler, requests=5, rate_rps=200.0)
    assert len(rows) >= 5
    assert all(row.failed and row.status == 0 for row in rows)


async def test_anonymous_requests_are_half_without_and_half_with_an_empty_header():
    headers = []

    async def handler(request):
        headers.append(request.headers.get("x-user-id"))
        return web.Response(headers={"x-sluice-version": "stable"})

    runner, url = await serve(handler)
    counts = await anonymous(url, "x-user-id", requests=20)
    await runner.cleanup()
    assert counts == {"failed": 0, "stable": 20}
    assert sorted(headers, key=str) == [""] * 10 + [None] * 10


def test_a_body_carries_name_shape_and_datatype_of_each_input():
    body, length = body_of({"ids": [5, 6], "weights": [[0.5, 1.5], [2.5, 3.5]]})
    assert json.loads(body)["inputs"] == [
        {"name": "ids", "shape": [1, 2], "datatype": "INT64", "data": [5, 6]},
        {"name": "weights", "shape": [1, 2, 2], "datatype": "FP32", "data": [0.5, 1.5, 2.5, 3.5]},
    ]
    assert length == 2


def test_an_empty_sample_file_is_refused_by_name(tmp_path):
    (tmp_path / "samples.jsonl").write_text("\n")
    with pytest.raises(FatalError, match=r"samples\.jsonl holds no sample"):
        bodies_of(tmp_path / "samples.jsonl")


def test_a_half_written_line_is_not_read(tmp_path):
    row = Sent(sent_at_s=1.0, ended_at_s=2.0, uid="u", version="1", status=200, tokens=3)
    (tmp_path / "journal").write_text(row.to_line() + row.to_line()[:-5])
    assert list(read(tmp_path / "journal")) == [row]
