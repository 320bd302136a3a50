"""Files are replaced as a whole or not at all."""

import pytest

from kd.files import replacing, replacing_folder


def test_replacing_leaves_the_old_file_when_writing_fails(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as beside:
            beside.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


def fill(path, content: str, fails: bool = False) -> None:
    with replacing_folder(path) as folder:
        (folder / "file").write_text(content)
        if fails:
            raise OSError("disk full")


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    path = tmp_path / "all" / "one"
    (tmp_path / "all" / ".one.new").mkdir(parents=True)  # of a process that was killed
    fill(path, "old")
    with pytest.raises(OSError, match="disk full"):
        fill(path, "half", fails=True)
    assert (path / "file").read_text() == "old"
    fill(path, "new")
    assert (path / "file").read_text() == "new"
    assert [p.name for p in path.parent.iterdir()] == ["one"]


def test_folders_side_by_side_are_filled_at_the_same_time(tmp_path):
    with replacing_folder(tmp_path / "one") as one, replacing_folder(tmp_path / "two") as two:
        (one / "file").write_text("1")
        (two / "file").write_text("2")
    assert [(tmp_path / name / "file").read_text() for name in ("one", "two")] == ["1", "2"]
