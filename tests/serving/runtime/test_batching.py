"""Which requests share a run, and that nobody's answer depends on who else was in it."""

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.runtime.backend import OnnxRuntimeBackend
from serving.runtime.batching import MAX_PADDING, assemble, run_sizes, split, take
from serving.runtime.engine import open_engine
from serving.runtime.shapes import Model, Sizes, model_of
from tests.serving.runtime.engines import NAN_TOKEN, WIDTH, embedding_engine, expected, unmasked_engine
from tests.serving.runtime.server import Client, request, serving


@dataclass
class Text:
    """A waiting request of `rows` equal texts."""

    ids: list[int]
    rows: int = 1
    gone: bool = False
    sizes: Sizes = field(init=False)
    tensors: dict[str, np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        self.sizes = {"batch": self.rows, "sequence": len(self.ids)}
        ids = np.array([self.ids] * self.rows, dtype=np.int64)
        self.tensors = {"input_ids": ids, "attention_mask": np.ones_like(ids)}


@pytest.fixture(scope="module")
def tiny(tiny_engine: Path) -> tuple[Model, OnnxRuntimeBackend]:
    return opened(tiny_engine)


def opened(folder: Path) -> tuple[Model, OnnxRuntimeBackend]:
    engine = open_engine(folder)
    model = model_of(engine.manifest, name="tiny", version="2")
    backend = OnnxRuntimeBackend()
    backend.load(engine.path, model, 1)
    return model, backend


texts = st.lists(
    st.builds(Text, st.lists(st.integers(8, 127), min_size=1, max_size=128), st.integers(1, 5)),
    min_size=1,
    max_size=6,
)


@given(waiting=texts, exact=st.booleans())
def test_a_batched_answer_is_the_answer_alone(tiny, waiting: list[Text], exact: bool):
    model, backend = tiny
    queue = deque(waiting)
    while queue:
        batch = take(queue, model)
        outputs = backend.run(assemble(batch, model, exact=exact))
        for text, got in zip(batch, split(batch, model, outputs), strict=True):
            assert got["embedding"].shape == (text.rows, WIDTH)
            assert got["states"].shape == (text.rows, len(text.ids), WIDTH)
            for row in got["embedding"]:
                np.testing.assert_allclose(row, expected(text.ids), atol=1e-5)
            alone = backend.run(assemble([text], model, exact=True))
            np.testing.assert_allclose(got["states"], alone["states"][:, : len(text.ids)], atol=1e-5)


@given(waiting=texts)
def test_take_keeps_the_order_the_row_limit_and_the_padding_limit(tiny, waiting: list[Text]):
    model, _ = tiny
    queue, taken = deque(waiting), []
    while queue:
        batch = take(queue, model)
        assert batch, "whoever waits is taken"
        taken += batch
        rows = sum(text.rows for text in batch)
        assert rows <= 16
        real = sum(text.rows * len(text.ids) for text in batch)
        assert rows * max(len(text.ids) for text in batch) <= MAX_PADDING * real
    assert taken == waiting


def test_a_long_text_does_not_make_a_short_one_wait_for_its_padding(tiny):
    model, _ = tiny
    queue = deque([Text([1] * 4), Text([1] * 6), Text([1] * 128), Text([1] * 100)])
    assert [len(text.ids) for text in take(queue, model)] == [4, 6]
    assert [len(text.ids) for text in take(queue, model)] == [128, 100]


def test_who_has_left_is_not_computed(tiny):
    model, _ = tiny
    queue = deque([Text([1] * 4, gone=True), Text([1] * 5), Text([1] * 6, gone=True)])
    assert [len(text.ids) for text in take(queue, model)] == [5]
    assert take(queue, model) == []


def test_sizes_of_a_run_are_exact_or_the_next_buckets(tiny):
    model, _ = tiny
    batch = [Text([1] * 17, rows=2), Text([1] * 30, rows=3)]
    assert run_sizes(batch, model, exact=True) == {"batch": 5, "sequence": 30}
    assert run_sizes(batch, model, exact=False) == {"batch": 16, "sequence": 32}
    assert run_sizes([Text([1, 2])], model, exact=True) == {"batch": 1, "sequence": 4}


@pytest.mark.parametrize("width", [WIDTH - 1, WIDTH + 1])
def test_an_output_of_another_fixed_size_than_the_manifests_is_no_answer(tiny, width: int):
    """Too long an embedding was once cut to the stated width, and answered with 200."""
    model, _ = tiny
    outputs = {
        "embedding": np.zeros((1, width), np.float32),
        "states": np.zeros((1, 4, WIDTH), np.float32),
    }
    with pytest.raises(ValueError, match=rf"embedding' has shape \[1, {width}\], the manifest says"):
        split([Text([1, 2, 3, 4])], model, outputs)


def test_what_is_warmed(tiny):
    model, _ = tiny
    every = model.buckets(combined=True)
    assert len(every) == 12
    assert every[-1] == {"batch": 16, "sequence": 128}
    few = [tuple(sizes.values()) for sizes in model.buckets(combined=False)]
    assert few == [(1, 16), (1, 32), (1, 64), (4, 16), (1, 128), (16, 16)]


def test_without_a_mask_nothing_is_padded(tmp_path: Path):
    """Padding an unmasked model would change the answer: only equal sizes share a run."""
    model, _ = opened(unmasked_engine(tmp_path / "plain"))
    assert model.padded_axes == frozenset()
    with serving(unmasked_engine(tmp_path / "served"), "--max-delay-ms", "50", "--drain-s", "0") as server:
        answers: dict[int, list] = {}

        def ask(length: int) -> None:
            entry = {"name": "values", "shape": [1, length], "datatype": "FP32", "data": [1.0] * length}
            answers[length] = Client(server.port).infer({"inputs": [entry]}).json()["outputs"][0]["data"]

        threads = [Thread(target=ask, args=(length,)) for length in (2, 3, 4, 5, 6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == {length: [2.0 * length] for length in (2, 3, 4, 5, 6)}
        assert Client(server.port).infer(
            {"inputs": [{"name": "values", "shape": [1, 1], "datatype": "FP32", "data": [1.0]}]}
        ).json() == {"error": "input 'values': shape[1] is 1, wanted 2 to 6 (axis length)"}


def test_what_queues_behind_a_run_shares_the_next_one_and_one_bad_request_spoils_no_other(tmp_path: Path):
    """Ten requests behind a slow one: one holds a NaN, one breaks the engine, eight are answered right."""
    rows = [[20 + index] * (10 + index) for index in range(8)] + [[NAN_TOKEN] * 12, [100_000] * 13]
    with serving(embedding_engine(tmp_path / "slow", turns=60), "--drain-s", "0") as server:
        answers: dict[int, object] = {}
        watcher = server.client()

        def ask(index: int, row: list[int]) -> None:
            answers[index] = Client(server.port).infer(request(row))

        threads = [Thread(target=ask, args=(-1, [9] * 10))]
        threads[0].start()
        while watcher.metric("infer_inflight") < 1:
            pass
        threads += [Thread(target=ask, args=item) for item in enumerate(rows)]
        for thread in threads[1:]:
            thread.start()
        for thread in threads:
            thread.join()
        runs = watcher.metric("infer_compute_seconds_count")
    assert [answers[index].status for index in range(10)] == [200] * 8 + [500, 500]
    assert answers[8].json()["error"].endswith("are NaN or infinite")
    for index, row in enumerate(rows[:8]):
        got = answers[index].json()["outputs"]
        np.testing.assert_allclose(got[0]["data"], expected(row), atol=1e-5)
        assert got[1]["shape"] == [1, len(row), WIDTH]
    assert runs < 11, "some of the eleven requests shared a run"
