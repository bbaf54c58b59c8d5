"""Files are hashed by what they hold, once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from clipbench.errors import UserError
from clipbench.task import content
from clipbench.task.content import Contents, files_below
from clipbench.task.prepared import prepared


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files, an hour old."""
    root = tmp_path / "data"
    for name in ("a.txt", "sub/b.txt", "sub/c\n\xe9.txt"):
        write(root / name, name[-5:])
    return root


def write(path: Path, text: str, at: int = 1_700_000_000_123_456_789) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, ns=(at, at))


def digest(root: Path, **how: bool) -> str | None:
    return Contents().digest("all", root, lambda: files_below(root), **how)


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    seen: list[Path] = []
    real = content._hash

    def counted(path: Path):
        seen.append(path)
        return real(path)

    monkeypatch.setattr(content, "_hash", counted)
    return seen


def test_a_second_look_reads_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch):
    seen = count_reads(monkeypatch)
    first = digest(folder)
    assert len(seen) == 3
    assert digest(folder) == first
    assert len(seen) == 3


def test_one_file_changed_is_one_file_read(folder: Path, monkeypatch: pytest.MonkeyPatch):
    before = digest(folder)
    seen = count_reads(monkeypatch)
    write(folder / "a.txt", "other"[: len("a.txt")], at=1_700_000_001_000_000_000)
    assert digest(folder) != before
    assert seen == [folder / "a.txt"]


def test_verify_reads_what_changed_under_its_time(folder: Path):
    before = digest(folder)
    write(folder / "a.txt", "other")
    assert digest(folder) == before
    after = digest(folder, verify=True)
    assert after != before
    assert digest(folder) == after


def test_files_written_this_moment_are_not_trusted(folder: Path):
    for text in ("one", "two", "six"):
        (folder / "a.txt").write_text(text)
        expected = digest(folder, verify=True)
        assert digest(folder) == expected


@pytest.mark.parametrize("damage", [b"", b"\xff" * 50, None])
def test_a_damaged_memory_is_none(folder: Path, damage: bytes | None):
    expected = digest(folder)
    [memory] = (content.cache_folder() / "content").iterdir()
    text = memory.read_bytes()
    memory.write_bytes(
        text.replace(b"1700000000123456789", b"1700000000123456780") if damage is None else damage
    )
    assert digest(folder) == expected


def test_without_a_cache_folder_it_is_read_every_time(folder: Path, tmp_path: Path):
    (tmp_path / "cache").touch()
    assert digest(folder) == digest(folder)


def test_nothing_is_written_beside_the_data(folder: Path):
    before = sorted(folder.rglob("*"))
    digest(folder)
    assert sorted(folder.rglob("*")) == before


def test_a_mere_look_says_how_much_there_is_to_read(folder: Path, monkeypatch: pytest.MonkeyPatch):
    seen = count_reads(monkeypatch)
    contents = Contents(read=False)
    assert contents.digest("all", folder, lambda: files_below(folder)) is None
    assert not seen
    [unread] = contents.unread
    assert (unread.files, unread.size) == (3, 16)
    assert str(unread) == f"{folder}: 1.6e-08 GB in 3 files, about 1 s"
    digest(folder)
    assert Contents(read=False).digest("all", folder, lambda: files_below(folder))


@pytest.mark.parametrize("name", [".hidden", ".ipynb_checkpoints/a", "__pycache__/a", "processed/data.pt"])
def test_what_is_no_data_does_not_count(folder: Path, name: str):
    before = digest(folder)
    write(folder / name, "noise")
    assert digest(folder) == before


def test_what_a_user_calls_processed_counts(folder: Path):
    before = digest(folder)
    write(folder / "processed/train.csv", "1,2")
    assert digest(folder) != before


def test_a_name_is_part_of_it_and_the_place_is_not(folder: Path, tmp_path: Path):
    before = digest(folder)
    folder.rename(tmp_path / "elsewhere")
    assert digest(tmp_path / "elsewhere") == before
    (tmp_path / "elsewhere/a.txt").rename(tmp_path / "elsewhere/z.txt")
    assert digest(tmp_path / "elsewhere") != before


def test_links_in_a_circle_end(folder: Path):
    (folder / "sub" / "again").symlink_to(folder)
    assert len(list(files_below(folder))) == 3


def test_a_pipe_is_refused_and_not_waited_for(folder: Path):
    os.mkfifo(folder / "pipe.png")
    with pytest.raises(UserError, match=r"pipe\.png is a pipe"):
        digest(folder)


def test_what_was_made_while_the_files_changed_is_not_kept(folder: Path):
    files, before = list(files_below(folder)), (folder / "a.txt").read_text()

    def make_amid_a_change():
        write(folder / "a.txt", "replaced", at=1_700_000_001_000_000_000)
        return {"of the new": torch.ones(1)}

    prepared("test", folder, files, make_amid_a_change)
    write(folder / "a.txt", before)
    assert list(prepared("test", folder, files, lambda: {"of the old": torch.ones(1)})) == ["of the old"]
    assert list(prepared("test", folder, files, lambda: {})) == ["of the old"]
