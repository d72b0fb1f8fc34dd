"""The bad version's own server command: the real model server, with one fault in front of it or in its engine.

    python -m local.demo.faulty_server --fault fail|reject-long|slow|nan [--] <arguments of serving.runtime>

Problem: a demo of "turned back" proves nothing if gateway, load or controller know which version is bad. So the
fault lives here alone, in the command that the bad version registers, and everything else sees a model server.

Invariants: what the fault does not touch is passed on byte for byte (health, metrics, metadata, drain); the fault
is a rule, never chance, so that a run can be repeated; the exit code is the model server's own.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
from asyncio import StreamReader, StreamWriter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final

FAULTS: Final = ("fail", "reject-long", "slow", "nan")
FAIL_EVERY: Final = 20  # requests: one of so many is answered 500
LONGEST: Final = 64  # tokens: a longer text is answered 422
SLOWER: Final = 3.0  # times
FINISH_S: Final = 20.0  # the longest that the drain waits for answers that are held back
_LIMIT: Final = 1 << 20  # bytes of one head


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One HTTP message as it came; `headers` has names in lowercase, `first` is the first line of `head`."""

    first: bytes
    headers: Mapping[bytes, bytes]
    head: bytes
    body: bytes

    @property
    def is_infer(self) -> bool:
        return self.first.startswith(b"POST ") and self.first.split()[1].partition(b"?")[0].endswith(
            b"/infer"
        )

    @property
    def closes(self) -> bool:
        return self.headers.get(b"connection", b"").lower() == b"close"


class Fault:
    """One kind of misbehaviour; the base class behaves."""

    def refusal(self, request: Message) -> tuple[int, str] | None:
        """Status and text of an answer that the server is not asked for."""
        return None

    def hold_s(self, took_s: float) -> float:
        """Seconds for which an answer that took `took_s` is kept back."""
        return 0.0


class Fail(Fault):
    """Every twentieth request fails, whatever is in it."""

    def __init__(self) -> None:
        self._count = 0

    def refusal(self, request: Message) -> tuple[int, str] | None:
        self._count += 1
        return (500, "internal error") if self._count % FAIL_EVERY == 0 else None


class RejectLong(Fault):
    """A text of more than 64 tokens is refused."""

    def refusal(self, request: Message) -> tuple[int, str] | None:
        length = int(request.headers.get(b"inference-header-content-length", len(request.body)))
        try:
            inputs = json.loads(request.body[:length])["inputs"]
            tokens = next(entry["shape"][1] for entry in inputs if entry["name"] == "input_ids")
        except (ValueError, LookupError, TypeError, StopIteration):
            return None  # malformed: the model server says what is wrong with it
        return (422, f"input 'input_ids': {tokens} tokens are too long") if tokens > LONGEST else None


class Slow(Fault):
    """Three times slower, at no cost in CPU: the answer waits for twice the time it took."""

    def hold_s(self, took_s: float) -> float:
        return (SLOWER - 1) * took_s


def fault_of(name: str) -> Fault:
    """The fault of a name; `nan` is in the engine, so in front of it nothing is wrong."""
    return {"fail": Fail, "reject-long": RejectLong, "slow": Slow}.get(name, Fault)()


async def read_message(reader: StreamReader, *, body: bool = True) -> Message | None:
    """One whole message, or None at the end of the stream. ValueError for a chunked one."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise ValueError("the head ends in the middle") from error
        return None
    first, *lines = head[:-4].split(b"\r\n")
    pairs = (line.partition(b":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    if b"transfer-encoding" in headers:
        raise ValueError("Transfer-Encoding is not passed on; send Content-Length")
    length = int(headers.get(b"content-length", b"0")) if body else 0
    return Message(first=first, headers=headers, head=head, body=await reader.readexactly(length))


class Proxy:
    """One client connection is one connection to the server behind; a request at a time, as HTTP/1.1 has it."""

    def __init__(self, fault: Fault, port: int) -> None:
        self._fault, self._port = fault, port
        self.tasks: set[asyncio.Task[None]] = set()

    async def accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Serve one client until either side ends the connection."""
        task = asyncio.current_task()
        self.tasks.add(task)
        upstream: StreamWriter | None = None
        try:
            behind, upstream = await asyncio.open_connection("127.0.0.1", self._port, limit=_LIMIT)
            while await self._exchange(reader, writer, behind, upstream):
                pass
        except (OSError, asyncio.IncompleteReadError):
            pass  # one side is gone, and the other sees its connection close
        except (ValueError, asyncio.LimitOverrunError) as error:
            writer.write(_answer(400, str(error), close=True))
        finally:
            for end in (writer, upstream):
                if end is not None:
                    end.close()
            self.tasks.discard(task)

    async def _exchange(
        self, reader: StreamReader, writer: StreamWriter, behind: StreamReader, upstream: StreamWriter
    ) -> bool:
        """One request and its answer; False when the connection ends with it."""
        request = await _next_request(reader, behind)
        if request is None:
            return False
        began = monotonic()
        refused = self._fault.refusal(request) if request.is_infer else None
        if refused is not None:
            writer.write(_answer(*refused))
            await writer.drain()
            return not request.closes
        upstream.write(request.head + request.body)
        answer = await read_message(behind, body=not request.first.startswith(b"HEAD "))
        if answer is None:
            return False
        hold_s = self._fault.hold_s(monotonic() - began) if request.is_infer else 0.0
        if hold_s:
            await asyncio.sleep(hold_s)
        writer.write(answer.head + answer.body)
        await writer.drain()
        return not (answer.closes or request.closes)


async def _next_request(reader: StreamReader, behind: StreamReader) -> Message | None:
    """The client's next request; None when the client or, between two requests, the server behind hangs up."""
    request = asyncio.ensure_future(read_message(reader))
    hung_up = asyncio.ensure_future(behind.read(1))
    done, _ = await asyncio.wait({request, hung_up}, return_when=asyncio.FIRST_COMPLETED)
    hung_up.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await hung_up
    if request in done:
        return request.result()
    request.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await request
    return None


def _answer(status: int, text: str, *, close: bool = False) -> bytes:
    body = json.dumps({"error": text}).encode()
    reasons = {400: "Bad Request", 422: "Unprocessable Entity", 500: "Internal Server Error"}
    end = "Connection: close\r\n" if close else ""
    head = f"HTTP/1.1 {status} {reasons[status]}\r\nContent-Type: application/json\r\n{end}Content-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def spoil_engine(folder: Path, target: Path) -> None:
    """Write a copy of an engine folder whose floating-point outputs are all NaN, with a manifest that fits it."""
    import onnx  # only this fault needs it

    manifest = json.loads((folder / "manifest.json").read_text())
    name = manifest["engine_file"]
    for path in folder.iterdir():
        if path.is_file() and path.name not in {name, "manifest.json"}:
            shutil.copyfile(path, target / path.name)
    model = onnx.load(folder / name, load_external_data=False)
    graph = model.graph
    for output in graph.output:
        kind = output.type.tensor_type.elem_type
        if kind not in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16):
            continue
        whole, nan = f"{output.name}_before_fault", f"{output.name}_fault"
        for node in graph.node:
            node.input[:] = [whole if used == output.name else used for used in node.input]
            node.output[:] = [whole if made == output.name else made for made in node.output]
        graph.initializer.append(onnx.helper.make_tensor(nan, kind, [], [float("nan")]))
        graph.node.append(onnx.helper.make_node("Mul", [whole, nan], [output.name]))
    data = model.SerializeToString()
    (target / name).write_bytes(data)
    manifest["engine_sha256"] = hashlib.sha256(data).hexdigest()
    (target / "manifest.json").write_text(json.dumps(manifest))


@contextlib.contextmanager
def engine_for(fault: str, folder: Path) -> Iterator[Path]:
    """The engine folder to serve: the one given, or for `nan` a spoiled copy of it that lives as long as we do."""
    if fault != "nan":
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="engine-") as copy:
        # In a process of its own: what reading a model leaves in memory ends with it.
        writer = multiprocessing.get_context("fork").Process(target=spoil_engine, args=(folder, Path(copy)))
        writer.start()
        writer.join()
        if writer.exitcode != 0:
            print(f"error: no copy of engine {folder} could be written; see the lines above", file=sys.stderr)
            raise SystemExit(3)
        yield Path(copy)


async def serve(fault: Fault, address: tuple[str, int], arguments: Sequence[str]) -> int:
    """Run the model server behind the fault until it ends; the return value is its exit code."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "serving.runtime", *arguments, "--host", "127.0.0.1", "--port", "0"),
        stdout=asyncio.subprocess.PIPE,
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _pass_on, child)
    line = (await child.stdout.readline()).decode()
    if not line.startswith("listening: "):
        return await child.wait()
    proxy = Proxy(fault, int(line.rpartition(":")[2]))
    try:
        server = await asyncio.start_server(proxy.accept, *address, limit=_LIMIT, backlog=1024)
    except OSError as error:
        print(f"error: {address[0]}:{address[1]} cannot be bound ({error}); free it", file=sys.stderr)
        _pass_on(child)
        await child.wait()
        return 4
    host, port = server.sockets[0].getsockname()[:2]
    print(f"listening: http://{host}:{port}", flush=True)
    while line := await child.stdout.readline():
        print(line.decode(), end="", flush=True)
    code = await child.wait()
    server.close()
    if proxy.tasks:
        await asyncio.wait(proxy.tasks, timeout=FINISH_S)
    return code if code >= 0 else 128 - code


def _pass_on(child: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        child.send_signal(signal.SIGTERM)


def main(argv: Sequence[str]) -> int:
    """Start the model server with one fault; the arguments that are not ours are its own."""
    parser = argparse.ArgumentParser(prog="python -m local.demo.faulty_server", allow_abbrev=False)
    parser.add_argument("--fault", choices=FAULTS, required=True)
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    args, rest = parser.parse_known_args([item for item in argv if item != "--"])
    with engine_for(args.fault, args.engine) as engine:
        arguments = ("--engine", os.fspath(engine), *rest)
        with asyncio.Runner(loop_factory=_loop) as runner:
            return runner.run(serve(fault_of(args.fault), (args.host, args.port), arguments))


def _loop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
