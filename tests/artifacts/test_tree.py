"""A folder's digest is that of its names and contents: all of them, and nothing else."""

import os
import shutil

import pytest

from artifacts.tree import TreeError, tree_sha256


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "f"
    (folder / "sub").mkdir(parents=True)
    (folder / "a").write_text("one")
    (folder / "sub" / "b").write_text("two")
    return folder


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda f: (f / "a").write_text("One"), id="content"),
        pytest.param(lambda f: (f / "a").rename(f / "c"), id="name"),
        pytest.param(lambda f: (f / "sub" / "b").rename(f / "b"), id="place"),
        pytest.param(lambda f: (f / "sub" / "b").unlink(), id="gone"),
        pytest.param(lambda f: (f / ".hidden").write_text(""), id="hidden-and-empty-file"),
    ],
)
def test_every_change_of_names_or_contents_counts(folder, change):
    before = tree_sha256(folder)
    change(folder)
    assert tree_sha256(folder) != before


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda f: os.utime(f / "a", (1, 1)), id="time"),
        pytest.param(lambda f: (f / "a").chmod(0o700), id="mode"),
        pytest.param(lambda f: (f / "empty").mkdir(), id="empty-folder"),
        pytest.param(lambda f: shutil.copytree(f / "sub", f / "sub" / "__pycache__"), id="python-s-cache"),
    ],
)
def test_nothing_else_counts(folder, change):
    before = tree_sha256(folder)
    change(folder)
    assert tree_sha256(folder) == before


def test_a_copy_elsewhere_has_the_same_digest(folder, tmp_path):
    assert tree_sha256(shutil.copytree(folder, tmp_path / "copy")) == tree_sha256(folder)


def test_a_link_to_a_file_counts_as_the_file(folder, tmp_path):
    """Model hubs lay a checkpoint out as links into a cache of blobs."""
    plain = tree_sha256(folder)
    (folder / "a").rename(tmp_path / "blob")
    (folder / "a").symlink_to(tmp_path / "blob")
    assert tree_sha256(folder) == plain


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(lambda f: (f / "x").symlink_to(f / "sub"), id="link-to-a-folder"),
        pytest.param(lambda f: (f / "x").symlink_to(f / "nothing"), id="link-to-nothing"),
        pytest.param(lambda f: os.mkfifo(f / "x"), id="pipe"),
    ],
)
def test_what_cannot_be_hashed_is_refused_and_not_left_out(folder, entry):
    entry(folder)
    with pytest.raises(TreeError) as caught:
        tree_sha256(folder)
    assert caught.value.path == str(folder / "x")


@pytest.mark.parametrize("make", [lambda f: f.mkdir(), lambda _: None], ids=["empty", "missing"])
def test_no_files_have_no_digest(tmp_path, make):
    make(tmp_path / "n")
    with pytest.raises(TreeError):
        tree_sha256(tmp_path / "n")
