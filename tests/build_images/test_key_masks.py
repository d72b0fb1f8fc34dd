"""A mask over keys becomes a channel of the heads; the graph computes what it did, and nothing else is touched."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from build_images.engine_builder.key_masks import fold_key_masks
from build_images.engine_builder.precision import flagged

HEADS, STEP, COLUMNS = 2, 0.02, (0, 2, 3, 1)


class Graph:
    """Nodes, each named as its output, and the constants they read."""

    def __init__(self, hidden):
        self.hidden, self.random = hidden, np.random.default_rng(7)
        self.nodes, self.constants = [], {}

    def node(self, kind, inputs, name, **attributes):
        self.nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def constant(self, name, value, dtype=np.float32):
        self.constants[name] = np.asarray(value, dtype)
        return name

    def weight(self, name, shape, quantized=False):
        made = self.constant(f"{name}_weight", self.random.normal(size=shape) * 0.5)
        return self.pair(made, name, self.random.uniform(0.01, 0.03, shape[-1])) if quantized else made

    def pair(self, tensor, name, scale):
        scale = self.constant(f"{name}_scale", scale)
        zero = self.constant(f"{name}_zero", np.zeros_like(self.constants[scale]), np.int8)
        whole = self.node("QuantizeLinear", [tensor, scale, zero], f"{name}_quantized", axis=1)
        return self.node("DequantizeLinear", [whole, scale, zero], f"{name}_dequantized", axis=1)

    def target(self, name, x, last, form):
        if form == "initializer":
            return self.constant(name, [0, 0, *last], np.int64)
        if form == "node":
            return self.node("Constant", [], name, value=numpy_helper.from_array(np.array([0, 0, *last])))
        parts = [self.node("Shape", [x], f"{name}_{at}", start=at, end=at + 1) for at in (0, 1)]
        last = [-1, *last[1:]] if len(last) == 2 else last
        parts += [self.constant(f"{name}_last_{at}", [one], np.int64) for at, one in enumerate(last)]
        return self.node("Concat", parts, name, axis=0)

    def mask(self, over, by):
        """[batch, 1 or heads, 1 or sequence, sequence], from `keep` [batch, sequence]."""
        keys = self.node("Unsqueeze", ["keep", self.constant("key_axes", [1, 2], np.int64)], "kept")
        if over == "queries":
            rows = self.node("Unsqueeze", ["keep", self.constant("row_axes", [1, 3], np.int64)], "kept_rows")
            keys = self.node("Mul", [keys, rows], "kept_both")
        hidden = self.node("Sub", [self.constant("one", 1), keys], "hidden")
        number = np.full((1, HEADS, 1, 1), by) if over == "heads" else by
        return self.node("Mul", [hidden, self.constant("hidden_by", number)], "mask")


def side(graph, name, x, form, *, width, heads=HEADS, perm=(0, 2, 1, 3), target=None, quantized=False):
    weight = graph.weight(name, (graph.hidden, heads * width), quantized)
    product = graph.node("MatMul", [x, weight], f"{name}_product")
    bias = graph.constant(f"{name}_bias", graph.random.normal(size=heads * width))
    biased = graph.node("Add", [bias, product], f"{name}_sum")
    target = target or graph.target(f"{name}_target", x, [heads, width], form)
    shaped = graph.node("Reshape", [biased, target], f"{name}_shaped")
    return graph.node("Transpose", [shaped], name, perm=perm)


def attention(graph, at, x, *, width, form, scale, merge, quantized, shared, key_heads, value_width, axis):
    queries = side(graph, f"{at}q", x, form, width=width, quantized="q" in quantized)
    if scale is not None:
        number = graph.constant(f"{at}factor", scale[1])
        queries = graph.node(scale[0], [queries, number], f"{at}scaled")
    target = f"{at}q_target" if shared else None
    keys = side(graph, f"{at}k", x, form, width=width, heads=key_heads, target=target, perm=COLUMNS)
    values = side(graph, f"{at}v", x, form, width=value_width or width)
    scores = graph.node("MatMul", [queries, keys], f"{at}scores")
    masked = graph.node("Add", [scores, "mask"], f"{at}masked")
    graph.node("Softmax", [masked], f"{at}softmax", axis=axis)
    attended = graph.node("MatMul", [f"{at}softmax", values], f"{at}attended")
    rows = graph.node("Transpose", [attended], f"{at}rows", perm=(0, 2, 1, 3))
    channels = HEADS * (value_width or width)
    target = graph.target(f"{at}merge_target", x, [-1 if merge == -1 else channels], form)
    merged = graph.node("Reshape", [rows, target], f"{at}merged")
    if "activation" in quantized:
        merged = graph.pair(merged, f"{at}merged", STEP)
    weight = graph.weight(f"{at}output", (channels, graph.hidden), "output" in quantized)
    return graph.node("MatMul", [merged, weight], f"{at}y")


def model(*, width=4, over="keys", by=-1.5, layers=1, **changes):
    """`by` hides softly, so that a mask of another size shows."""
    graph, x = Graph(HEADS * width), "x"
    graph.mask(over, by)
    plain = {"form": "initializer", "scale": ("Mul", 0.3), "merge": None, "quantized": (), "shared": False}
    plain |= {"key_heads": HEADS, "value_width": None, "axis": -1}
    for at in ["", "second_"][:layers]:
        x = attention(graph, at, x, width=width, **(plain | changes))
    shape = ["batch", "sequence", HEADS * width]
    constants = [numpy_helper.from_array(array, name) for name, array in graph.constants.items()]
    given = [value("x", shape), value("keep", shape[:2])]
    made = helper.make_graph(graph.nodes, "g", given, [value(x, shape)], constants)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def value(name, shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def node(made, name):
    return next(one for one in made.graph.node if one.name == name)


def feeds(width=4):
    """For each size a batch of which every row keeps other keys, more or less."""
    random = np.random.default_rng(3)
    for size in [(1, 1), (2, 5), (3, 9)]:
        x, keep = random.normal(size=(*size, HEADS * width)), random.uniform(-1, 1, size)
        yield {"x": x.astype(np.float32), "keep": keep.astype(np.float32)}


def answers(made, given):
    onnx.checker.check_model(made, full_check=True)
    plain = onnxruntime.SessionOptions()
    plain.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    run = onnxruntime.InferenceSession(made.SerializeToString(), plain).run
    return [run(None, feed)[0] for feed in given]


FORMS = {
    "multiplied": {},
    "a-width-that-kernels-take": {"width": 8},
    "no-scale": {"scale": None},
    "divided": {"scale": ("Div", [-1.7])},
    "target-as-node": {"form": "node"},
    "target-of-shapes": {"form": "shapes"},
    "merge-by-rest": {"merge": -1},
    "two-reshapes-one-concat": {"form": "shapes", "shared": True},
    "last-axis-counted-from-the-front": {"axis": 3},
    "quantized-queries": {"quantized": ("q",)},
    "quantized-output": {"quantized": ("output",)},
    "quantized-activation": {"quantized": ("activation",)},
    "all-quantized": {"quantized": ("q", "output", "activation"), "layers": 2, "width": 8},
}


@pytest.mark.parametrize("changes", FORMS.values(), ids=FORMS)
def test_the_mask_is_part_of_the_product_and_the_answers_stay(changes):
    width = changes.get("width", 4)
    made, given = model(**changes), list(feeds(width))
    wanted = answers(made, given)
    assert fold_key_masks(made)
    kinds = {one.output[0]: one.op_type for one in made.graph.node}
    assert {kinds[one.input[0]] for one in made.graph.node if one.op_type == "Softmax"} == {"MatMul"}
    near = {"abs": STEP} if "activation" in changes.get("quantized", ()) else {"rel": 1e-5, "abs": 1e-5}
    for got, want in zip(answers(made, given), wanted, strict=True):
        assert got == pytest.approx(want, **near)
    constants = {one.name: numpy_helper.to_array(one) for one in made.graph.initializer}
    assert constants.keys() <= {name for one in made.graph.node for name in one.input}
    assert all((array > 0).all() for name, array in constants.items() if "_scale" in name)
    assert constants["v_weight_wide"].shape == (HEADS * width, HEADS * (width + 8 - width % 8)), "for kernels"
    before = made.SerializeToString()
    assert (fold_key_masks(made), made.SerializeToString()) == (False, before), "twice"


def test_a_hidden_key_changes_nothing_and_a_kept_one_does():
    made, (*_, feed) = model(by=-1e4), feeds()
    assert fold_key_masks(made)
    feed["keep"] = 1 - np.outer([0, 1, 0], np.arange(9) == 4).astype(np.float32)
    other = {**feed, "x": feed["x"] + np.float32(2) * (np.arange(9) == 4)[:, None]}
    got, moved = answers(made, [feed, other])
    rest = np.arange(9) != 4
    assert np.array_equal(got[1, rest], moved[1, rest])
    assert (np.abs(got[0, rest] - moved[0, rest]).max(axis=-1) > 1e-3).all()


def put(made, name, array):
    made.graph.initializer.append(numpy_helper.from_array(array, name))
    for one in [one for one in made.graph.initializer if one.name == name][:-1]:
        made.graph.initializer.remove(one)


def without(made, name, instead, array=None):
    made.graph.node.remove(node(made, name))
    rewire(made, name, instead)
    if array is not None:
        put(made, instead, array)


def interleaved(made):
    for name, perm in {"q": (0, 3, 1, 2), "k": (0, 3, 2, 1), "v": (0, 3, 1, 2)}.items():
        put(made, f"{name}_target", np.array([0, 0, 4, 2]))
        node(made, name).attribute[0].ints[:] = perm


def rewire(made, old, new):
    for one in made.graph.node:
        one.input[:] = [new if name == old else name for name in one.input]


def through(made, name, kind="Identity"):
    at = next(at for at, one in enumerate(made.graph.node) if name in one.input)
    rewire(made, name, f"{name}_through")
    made.graph.node.insert(at, helper.make_node(kind, [name], [f"{name}_through"]))


def also(made, name, end):
    if end != name:
        made.graph.node.append(helper.make_node("Neg", [name], [end]))
    made.graph.output.append(value(end, [None] * (3 if name in ("q_sum", "merged") else 4)))


def by_rows(made):
    for name in ("q_quantized", "q_dequantized"):
        node(made, name).attribute[0].i = 0


def by_channel(made):
    for name in ("merged_quantized", "merged_dequantized"):
        node(made, name).attribute[0].i = 2
    put(made, "merged_scale", np.linspace(0.01, 0.03, 8, dtype=np.float32))
    put(made, "merged_zero", np.zeros(8, np.int8))


def given_as_default(made, name):
    made.graph.input.append(value(name, [8, 8]))


QUANTIZED, SHAPES = {"quantized": ("q",)}, {"form": "shapes"}
OTHERS = {
    "mask-per-query": ({"over": "queries"},),
    "mask-per-head": ({"over": "heads"},),
    "another-axis": ({"axis": 2},),
    "one-key-head-for-all-queries": ({"key_heads": 1},),
    "wider-values": ({"value_width": 8},),
    "scale-of-zero": ({"scale": ("Mul", 0.0)},),
    "scale-per-channel": ({"scale": ("Mul", [0.1, 0.2, 0.3, 0.4])},),
    "computed-scale": ({}, through, "factor"),
    "computed-bias": ({}, through, "q_bias"),
    "computed-weight": (QUANTIZED, through, "q_weight"),
    "computed-target": ({}, through, "q_target"),
    "computed-width": (SHAPES, through, "q_target_last_1"),
    "computed-merge": (SHAPES, through, "merge_target_last_0"),
    "width-by-rest": ({}, put, "q_target", np.array([0, 0, 2, -1])),
    "bias-of-one-number": ({}, put, "q_bias", np.float32(0.5)),
    "int8-weight": (QUANTIZED, without, "q_quantized", "q_whole", np.eye(8, dtype=np.int8)),
    "no-bias": ({}, without, "q_sum", "q_product"),
    "interleaved-heads": ({}, interleaved),
}
OTHERS["scale-per-row-of-weights"] = (QUANTIZED, by_rows)
OTHERS["activation-scale-per-channel"] = ({"quantized": ("activation",)}, by_channel)
OTHERS["weight-that-callers-may-give"] = ({}, given_as_default, "q_weight")
for tensor in ("scores", "masked", "softmax", "attended", "k", "scaled", "q_sum", "merged"):
    OTHERS[f"{tensor}-is-an-output"] = ({}, also, tensor, tensor)
    OTHERS[f"{tensor}-is-read"] = ({}, also, tensor, "negative")
    OTHERS[f"{tensor}-goes-on-through-a-node"] = ({}, through, tensor, "Relu")


@pytest.mark.parametrize("case", OTHERS.values(), ids=OTHERS)
def test_what_has_another_form_is_left(case):
    changes, *edits = case
    made = model(**changes)
    if edits:
        edits[0](made, *edits[1:])
    assert all(np.isfinite(one).all() for one in answers(made, feeds())), "a graph that works"
    before = made.SerializeToString()
    assert (fold_key_masks(made), made.SerializeToString()) == (False, before)


def one_scale(made):
    put(made, "q_scale", np.array([0.02], np.float32))
    put(made, "q_zero", np.array([0], np.int8))


def one_weight_twice(made):
    node(made, "y").input[1] = "q_weight"


def names_taken(made):
    put(made, "dimension_8", np.array([3]))
    put(made, "q_weight_wide", np.ones(3, np.float32))
    made.graph.node.append(helper.make_node("Neg", ["dimension_8"], ["unread"]))


def weight_as_output(made):
    made.graph.output.append(value("q_weight", [8, 8]))


def weight_in_a_branch(made):
    branch = helper.make_graph(
        [helper.make_node("Identity", ["q_weight"], ["weights"])], "b", [], [value("weights", [8, 8])]
    )
    put(made, "yes", np.array(True))
    made.graph.node.append(
        helper.make_node("If", ["yes"], ["also"], "if", then_branch=branch, else_branch=branch)
    )
    made.graph.output.append(value("also", [8, 8]))


UNUSUAL = {
    "one-scale-in-a-list": (QUANTIZED, one_scale),
    "one-weight-twice": ({}, one_weight_twice),
    "names-taken": (SHAPES, names_taken),
    "weight-is-an-output": ({}, weight_as_output),
    "weight-is-read-in-a-branch": ({}, weight_in_a_branch),
}


@pytest.mark.parametrize(("changes", "edit"), UNUSUAL.values(), ids=UNUSUAL)
def test_what_is_unusual_beside_it_stays_as_it_was(changes, edit):
    made, given = model(**changes), list(feeds())
    edit(made)
    wanted = answers(made, given)
    assert fold_key_masks(made)
    for got, want in zip(answers(made, given), wanted, strict=True):
        assert got == pytest.approx(want, rel=1e-5, abs=1e-5)


def test_a_row_without_a_key_is_finite_and_an_infinite_mask_hides():
    made, (*_, feed) = model(by=-np.inf), feeds()
    feed["keep"] = (np.arange(27) % 2).reshape(3, 9).astype(np.float32)
    feed["keep"][1] = 0
    node(made, "mask").op_type = "Where"
    node(made, "mask").input[:] = ["is_hidden", "hidden_by", "hidden"]
    at = next(at for at, one in enumerate(made.graph.node) if one.name == "mask")
    made.graph.node.insert(at, helper.make_node("Cast", ["hidden"], ["is_hidden"], to=TensorProto.BOOL))
    (wanted,) = answers(made, [feed])
    assert fold_key_masks(made)
    (got,) = answers(made, [feed])
    assert got[[0, 2]] == pytest.approx(wanted[[0, 2]], rel=1e-5, abs=1e-5)
    assert np.isfinite(got).all()


def test_a_file_for_a_library_with_flags_has_scores_scaled_first_and_then_folded(tmp_path):
    made, given = model(scale=None), list(feeds())
    put(made, "late", np.float32(0.3))
    at = next(at for at, one in enumerate(made.graph.node) if one.name == "masked")
    made.graph.node.insert(at, helper.make_node("Mul", ["scores", "late"], ["late_scores"], "late_scale"))
    node(made, "masked").input[0] = "late_scores"
    wanted = answers(made, given)
    onnx.save(made, tmp_path / "source.onnx")
    path, _ = flagged(tmp_path / "source.onnx", tmp_path / "flagged.onnx")
    written = onnx.load(path)
    assert node(written, "softmax").input[0] in node(written, "scores").output
    assert all(one.name for one in written.graph.node)
    for got, want in zip(answers(written, given), wanted, strict=True):
        assert got == pytest.approx(want, rel=1e-5, abs=1e-5)
