"""What is visible is whole, and what is read is what was written; also when writers die, race or run out of room."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from artifacts.drafts import sweep
from artifacts.store import (
    ArtifactCorruptError,
    ArtifactMissingError,
    ArtifactNameError,
    SourceChangedError,
    Store,
    StoreFullError,
    TreeError,
    tree_sha256,
)
from sluice.errors import RetryableError

ROOT = Path(__file__).parents[2]
KEY, OTHER = "ab" * 32, "cd" * 32


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    (folder / "weights").mkdir(parents=True)
    (folder / "model.py").write_text("def load(folder): ...")
    (folder / "weights" / "w.bin").write_bytes(bytes(range(256)) * 20)
    return folder


def put(store, text="hello", *, kind="onnx", key=KEY):
    with store.staged(kind, key) as draft:
        (draft.path / "sub").mkdir()
        (draft.path / "model.onnx").write_text(text)
        (draft.path / "sub" / "data").write_text("external")
        return draft.publish({"opset": 17})


def stage(store, *steps):
    """Take each step with one draft; the answer of the last."""
    with store.staged("onnx", KEY) as draft:
        return [step(draft) for step in steps][-1]


def write(text="half", name="model.onnx"):
    return lambda draft: (draft.path / name).write_text(text)


def visible(store):
    """What a reader can find; drafts are out of sight."""
    if not store.root.exists():
        return []
    return sorted(str(p.relative_to(store.root)) for p in store.root.glob("[!.]*/*/*"))


def drafts(store):
    return sorted((store.root / ".drafts").iterdir())


def test_what_was_published_is_read_back_with_its_facts(store):
    made = put(store)
    read = store.get("onnx", KEY)
    assert read == made
    assert (read.path / "sub" / "data").read_text() == "external"
    assert read.facts == {"opset": 17}
    assert drafts(store) == []


def test_the_layout_is_that_of_the_contract(store):
    """Pods of other versions and people with a shell read it too."""
    put(store)
    receipt = json.loads((store.root / "onnx" / KEY / "receipt.json").read_text())
    assert {name: receipt[name] for name in ("schema", "kind", "key", "facts")} == {
        "schema": 1,
        "kind": "onnx",
        "key": KEY,
        "facts": {"opset": 17},
    }
    assert set(receipt["files"]) == {"model.onnx", "sub/data"}
    assert receipt["files"]["model.onnx"]["bytes"] == 5


def test_has_tells_what_is_published(store):
    assert not store.has("onnx", KEY)
    put(store)
    assert store.has("onnx", KEY)
    assert not store.has("onnx", OTHER)
    assert not store.has("engine", KEY)


def test_what_is_missing_names_kind_key_and_store(store):
    with pytest.raises(ArtifactMissingError, match="no onnx abababababab in the artifact store") as caught:
        store.get("onnx", KEY)
    assert "SLUICE_STORE" in caught.value.next_step


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        pytest.param("secrets", KEY, id="unknown-kind"),
        pytest.param("onnx", "../../etc", id="path-for-a-key"),
        pytest.param("onnx", KEY.upper(), id="uppercase"),
        pytest.param("onnx", "", id="empty"),
    ],
)
def test_no_name_leads_out_of_the_store(store, kind, key):
    for ask in (store.has, store.get, lambda *names: store.staged(*names).__enter__()):
        with pytest.raises(ArtifactNameError):
            ask(kind, key)
    assert not store.root.exists()


# --- damage -------------------------------------------------------------------------------------


def _flip(folder):
    data = bytearray((folder / "sub" / "data").read_bytes())
    data[0] ^= 1
    (folder / "sub" / "data").write_bytes(data)


def _receipt(**changes):
    def edit(folder):
        path = folder / "receipt.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


@pytest.mark.parametrize(
    ("damage", "file"),
    [
        pytest.param(_flip, "sub/data", id="one-bit"),
        pytest.param(lambda f: os.truncate(f / "model.onnx", 2), "model.onnx", id="cut-short"),
        pytest.param(lambda f: (f / "sub" / "data").unlink(), "sub/data", id="file-gone"),
        pytest.param(lambda f: (f / "extra.py").write_text("x"), "extra.py", id="file-added"),
        pytest.param(lambda f: (f / "receipt.json").unlink(), "receipt.json", id="receipt-gone"),
        pytest.param(lambda f: (f / "receipt.json").write_text("{"), "receipt.json", id="receipt-broken"),
        pytest.param(
            lambda f: (f / "receipt.json").write_text("[]"), "receipt.json", id="receipt-of-nothing"
        ),
        pytest.param(_receipt(files={}), "receipt.json", id="receipt-that-compares-nothing"),
        pytest.param(_receipt(key=OTHER), "receipt.json", id="receipt-of-another-key"),
        pytest.param(_receipt(kind="engine"), "receipt.json", id="receipt-of-another-kind"),
        pytest.param(_receipt(schema=2), "receipt.json", id="receipt-from-the-future"),
    ],
)
def test_damage_is_an_error_that_names_the_file(store, damage, file):
    damage(put(store).path)
    with pytest.raises(ArtifactCorruptError) as caught:
        store.get("onnx", KEY)
    assert caught.value.file == file
    assert f"remove the folder onnx/{KEY}" in caught.value.next_step


def test_python_s_own_cache_is_no_damage(store):
    """Loading a checkpoint's model.py from the store writes __pycache__ beside it."""
    cache = put(store).path / "sub" / "__pycache__"
    cache.mkdir()
    (cache / "model.cpython-311.pyc").write_bytes(b"x")
    assert store.get("onnx", KEY)


# --- drafts -------------------------------------------------------------------------------------


def test_an_unpublished_draft_is_never_seen_and_leaves_nothing(store):
    with store.staged("onnx", KEY) as draft:
        (draft.path / "model.onnx").write_text("half")
        assert not store.has("onnx", KEY)
        assert visible(store) == []
    assert (visible(store), drafts(store)) == ([], [])


def test_a_draft_whose_writer_fails_leaves_nothing(store):
    with pytest.raises(ZeroDivisionError):
        stage(store, write(), lambda _: 1 / 0)
    assert (visible(store), drafts(store)) == ([], [])


def test_an_empty_draft_is_not_published(store):
    with pytest.raises(TreeError, match="no files"):
        stage(store, lambda draft: draft.publish({}))
    assert visible(store) == []


@pytest.mark.parametrize("facts", [{"cosine": float("nan")}, {"path": Path("x")}], ids=["nan", "no-json"])
def test_facts_that_are_no_json_are_not_published(store, facts):
    with pytest.raises((ValueError, TypeError)):
        stage(store, write(), lambda draft: draft.publish(facts))
    assert visible(store) == []


def test_a_draft_cannot_bring_its_own_receipt(store):
    with pytest.raises(ArtifactNameError, match=r"receipt\.json"):
        stage(store, write("{}", "receipt.json"), lambda draft: draft.publish({}))


def test_the_first_publisher_wins_and_the_second_gets_its_artifact(store):
    with store.staged("onnx", KEY) as late:
        (late.path / "model.onnx").write_text("late")
        first = put(store, "first")
        assert late.publish({"opset": 18}) == first
    assert (store.get("onnx", KEY).path / "model.onnx").read_text() == "first"
    assert drafts(store) == []


def test_a_second_publisher_does_not_take_a_damaged_first_for_its_own(store):
    with store.staged("onnx", KEY) as late:
        (late.path / "model.onnx").write_text("late")
        _flip(put(store, "first").path)
        with pytest.raises(ArtifactCorruptError):
            late.publish({})


# --- crashes ------------------------------------------------------------------------------------


def test_a_writer_killed_at_any_step_leaves_all_or_nothing(tmp_path):
    """kill -9 before every open, rename, mkdir and remove: a reader finds the whole or nothing, and a retry
    finds no leftovers in its way."""
    command = [sys.executable, "-m", "tests.artifacts.killed", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    whole, nothing = 0, 0
    for step in range(1, json.loads(ran.stdout) + 1):
        store = Store(tmp_path / str(step))
        if store.has("onnx", KEY):
            whole += 1
            store.get("onnx", KEY)
        else:
            nothing += 1
            assert visible(store) == []
        assert (put(store).path / "model.onnx").read_text() == "hello"
        assert drafts(store) == []
    assert nothing >= 10
    assert whole >= 2


def test_the_draft_of_a_living_writer_is_not_swept(store):
    with store.staged("onnx", KEY) as draft:
        (draft.path / "a").write_text("a")
        put(store, key=OTHER)
        assert sweep(store.root / ".drafts") == 0
        assert draft.publish({}).path.is_dir()


# --- room ---------------------------------------------------------------------------------------


def test_a_full_disk_is_retryable_and_names_the_place_and_the_bytes(store):
    """/dev/full gives the kernel's own ENOSPC."""
    with pytest.raises(StoreFullError) as caught:
        stage(store, write("x" * 1000), lambda _: Path("/dev/full").write_text("x"))
    assert isinstance(caught.value, RetryableError)
    assert caught.value.path == str(store.root)
    assert caught.value.needed_bytes >= 1000
    assert caught.value.free_bytes > 0
    assert "free some space" in str(caught.value)
    assert (visible(store), drafts(store)) == ([], [])


@pytest.fixture
def small_files():
    """No file may grow beyond 16 MiB: a copy that should not have begun fails fast and fills no disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (16 << 20, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_what_cannot_fit_is_refused_before_a_byte_is_copied(store, source, small_files):
    needed = shutil.disk_usage(source).free + (1 << 40)
    with (source / "huge").open("wb") as file:
        file.truncate(needed)  # sparse: it has the size and takes no room
    small_files()
    with pytest.raises(StoreFullError) as caught:
        store.publish_tree("onnx", KEY, source, {})
    assert caught.value.needed_bytes >= needed
    assert drafts(store) == []


def test_another_error_of_the_disk_stays_what_it_is(store):
    with pytest.raises(FileNotFoundError):
        stage(store, write(name="no/folder"))


# --- trees --------------------------------------------------------------------------------------


def test_a_checkpoint_goes_in_under_the_digest_of_its_files(store, source):
    key = tree_sha256(source)
    made = store.publish_tree("checkpoint", key, source, {"source": "s"})
    assert tree_sha256(source) == key
    assert (made.path / "weights" / "w.bin").read_bytes() == (source / "weights" / "w.bin").read_bytes()


def test_a_checkpoint_that_changed_meanwhile_is_not_published(store, source):
    key = tree_sha256(source)
    (source / "model.py").write_text("other")
    with pytest.raises(SourceChangedError, match="changed"):
        store.publish_tree("checkpoint", key, source, {})
    assert visible(store) == []


def test_a_tree_that_is_there_is_not_copied_again(store, source):
    key = tree_sha256(source)
    first = store.publish_tree("checkpoint", key, source, {"source": "first"})
    assert store.publish_tree("checkpoint", key, source / "gone", {"source": "second"}) == first
