"""Data sets by torchvision's own classes, with small files in the place of theirs."""

import hashlib
import pickle
import socket
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets
from scipy.io import savemat
from torchvision.datasets import CIFAR10, SVHN

from kd.data import mnist_files
from kd.data.torchvision_sets import read_torchvision
from kd.errors import UserError

RANDOM = np.random.default_rng(0)
CLASSES = ["plane", "car", "bird"]


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def cifar(tmp_path, monkeypatch) -> Path:
    """A folder that has CIFAR10: two batches of training images and one of the test."""
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()

    def write(name: str, content: dict) -> str:
        (folder / name).write_bytes(pickle.dumps(content))
        return md5(folder / name)

    def batch(name: str, count: int) -> list[str]:
        data = RANDOM.integers(0, 256, (count, 3072), dtype=np.uint8)
        return [name, write(name, {"data": data, "labels": [n % 3 for n in range(count)]})]

    monkeypatch.setattr(CIFAR10, "train_list", [batch("data_batch_1", 6), batch("data_batch_2", 3)])
    monkeypatch.setattr(CIFAR10, "test_list", [batch("test_batch", 4)])
    meta = write("batches.meta", {"label_names": CLASSES})
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": meta})
    return tmp_path


@pytest.fixture
def svhn(tmp_path, monkeypatch) -> Path:
    """A folder that has SVHN, whose files have the images last."""
    files = {}
    for part, count in (("train", 40), ("test", 11)):
        path = tmp_path / f"{part}_32x32.mat"
        labels = np.arange(1, count + 1)[:, None] % 10 + 1  # 10 is the digit 0
        images = RANDOM.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        savemat(path, {"X": images, "y": labels})
        files[part] = [f"http://no.where/{path.name}", path.name, md5(path)]
    monkeypatch.setattr(SVHN, "split_list", files)
    return tmp_path


def refused(*arguments) -> str:
    """The one line that is said."""
    with pytest.raises(UserError) as error:
        read_torchvision(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_cifar10(cifar):
    training, test, names = read_torchvision("CIFAR10", str(cifar))
    assert names == tuple(CLASSES)
    assert training[0].shape == (9, 32, 32, 3)
    assert training[0].dtype == np.uint8
    assert training[1].tolist() == [0, 1, 2] * 3
    assert training[1].dtype == np.int64
    assert test[0].shape == (4, 32, 32, 3)
    for number, image in enumerate(CIFAR10(cifar, train=False)):
        assert (test[0][number] == np.asarray(image[0])).all()


def test_svhn(svhn):
    training, test, names = read_torchvision("SVHN", str(svhn))
    assert names is None
    assert training[0].shape == (40, 32, 32, 3)
    assert training[1].tolist()[:10] == [2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert training[1].dtype == np.int64
    for number, image in enumerate(SVHN(svhn, split="test")):
        assert (test[0][number] == np.asarray(image[0])).all()


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        ("CIFAR10", "put the folder cifar-10-batches-py (in https://www.cs.toronto.edu/"),
        ("CIFAR100", "put the folder cifar-100-python (in https://www.cs.toronto.edu/"),
        ("SVHN", "put train_32x32.mat (from http://ufldl.stanford.edu/housenumbers/train_32x32"),
        ("USPS", "put usps.bz2 (from https://www.csie.ntu.edu.tw/"),
        ("KMNIST", "put its files there"),
    ],
)
def test_without_its_files_it_is_told_what_goes_where(tmp_path, dataset, said):
    found = refused(dataset, str(tmp_path))
    assert found.startswith(f"data.dir={tmp_path}: {dataset} cannot be read: ")
    assert "; data.source=torchvision downloads it; or put " in found
    assert said in found
    assert "download=True" not in found


def test_an_altered_file_is_not_read(cifar, capsys):
    class Evil:
        def __reduce__(self):
            return (print, ("code in a pickle ran",))

    (cifar / CIFAR10.base_folder / "test_batch").write_bytes(pickle.dumps(Evil()))
    assert "CIFAR10 cannot be read: Dataset not found or corrupted; " in refused(
        "CIFAR10", str(cifar)
    )
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        ("Mist", "data.dataset=Mist: torchvision.datasets has no such class"),
        ("folder", "data.dataset=folder: torchvision.datasets has no such class"),
        ("VisionDataset", "does not hold training and test images in memory as CIFAR10, SVHN or"),
        ("ImageFolder", "does not hold training and test images in memory as CIFAR10, SVHN or"),
        ("EMNIST", "Unknown value 'train' for argument split"),
    ],
)
def test_other_classes_are_refused(tmp_path, dataset, said):
    assert said in refused(dataset, str(tmp_path))


def test_an_archive_in_the_folder_is_unpacked_without_a_network(cifar, monkeypatch):
    archive = cifar / CIFAR10.filename
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(cifar / CIFAR10.base_folder, CIFAR10.base_folder)
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(archive))
    (cifar / CIFAR10.base_folder).rename(cifar / "elsewhere")
    assert len(read_torchvision("CIFAR10", str(cifar), True).training[0]) == 9


def test_a_server_that_falls_silent_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(mnist_files, "DOWNLOAD_TIMEOUT_S", 0.2)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/cifar-10-python.tar.gz"
        monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", url)
        said = refused("CIFAR10", str(tmp_path), True)
    assert said == (
        f"data.dir={tmp_path}: CIFAR10 cannot be downloaded: timed out; put the folder "
        f"cifar-10-batches-py (in {url}) there"
    )
    assert socket.getdefaulttimeout() is None
