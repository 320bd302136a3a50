"""Where images come from: each source is fetched, read, and known by the state of its files.

``data.source`` names the source. Reading one is in a file of its own here.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from glob import glob
from pathlib import Path
from typing import Any, NamedTuple

from kd.config.schema import Data
from kd.data import mnist_files as mnist
from kd.data.idx import NAMES, read_parts
from kd.data.image_folder import image_folder_bytes, read_image_folder
from kd.data.npz_file import npz_bytes, read_npz
from kd.data.parts import Parts
from kd.data.small_sets import read_digits
from kd.data.torchvision_sets import read_torchvision
from kd.errors import UserError
from kd.files import lock

# Their files are named and made as MNIST's. torchvision's own reader would prefer a file
# ``processed/*.pt``, whatever that holds.
LIKE_MNIST = {
    "MNIST": tuple("0123456789"),
    "FashionMNIST": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    "KMNIST": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
}


class Place(NamedTuple):
    """The settings that say where images lie, as what a cache goes by."""

    dataset: str
    dir: str
    source: str
    file: str | None
    size: tuple[int, ...] | None

    @classmethod
    def of(cls, config: Data) -> Place:
        """Take them from the settings of ``conf/data``."""
        size = None if config.size is None else tuple(config.size)
        return cls(config.dataset, config.dir, config.source, config.file, size)

    def config(self) -> Data:
        """Return the settings again."""
        size = None if self.size is None else list(self.size)
        return Data(self.dataset, self.dir, self.source, file=self.file, size=size)


class Sent(NamedTuple):
    """Images that a command has sent to its tasks: the files need not be where these run."""

    state: Hashable  # of the files, where the command runs
    pool: Callable[[], Any]  # fetches them, as they were stored


received: dict[Place, Sent] = {}  # by a task, from its command


def fetch(config: Data) -> None:
    """Get a data set's files that are missing, as ``data.source`` says how.

    Raises:
        UserError: they cannot be had.
    """
    if Place.of(config) in received:
        return
    root = Path(config.dir)
    if config.source == "verified":
        files = None if config.files is None else Path(config.files)
        mnist.ensure_verified(config.dataset, root, files)
    elif config.source == "torchvision" and config.dataset in LIKE_MNIST:
        mnist.ensure_downloaded(root, config.dataset)
    elif config.source == "torchvision":
        with lock(root / f".{config.dataset}.lock"):  # one process at a time downloads
            read_torchvision(config.dataset, config.dir, download=True)


def read(config: Data) -> Parts:
    """Read a data set from where its source has it.

    Raises:
        UserError: there is no such data set, or its files are missing, damaged or altered.
    """
    if config.source == "npz":
        return read_npz(file_of(config))
    if config.source == "images":
        return read_image_folder(Path(config.dir), config.size)
    if config.source == "sklearn":
        return read_digits()
    if config.source != "verified" and config.dataset not in LIKE_MNIST:
        return read_torchvision(config.dataset, config.dir)
    sha256 = mnist.known_hashes(config.dataset) if config.source == "verified" else None
    try:
        training, test = read_parts(Path(config.dir, config.dataset, "raw"), sha256)
    except UserError as error:
        raise UserError(f"{where_of(config)} cannot be read: {error}") from error
    return Parts(training, test, LIKE_MNIST[config.dataset])


def where_of(config: Data) -> str:
    """Name the data for a message: the key that says where it is, and which it is."""
    if config.source == "npz":
        return f"data.file={config.file}"
    if config.source == "images":
        return f"data.dir={config.dir}"
    return f"data.dir={config.dir}: {config.dataset}"


def file_of(config: Data) -> Path:
    """Return the file of ``data.source=npz``.

    Raises:
        UserError: none is named.
    """
    if config.file is None:
        raise UserError("data.file: missing; data=npz reads data.file=PATH.npz")
    return Path(config.file)


def state(config: Data) -> Hashable:
    """Tell whether the files of a data set were changed: by size and times of each."""
    if sent := received.get(Place.of(config)):
        return sent.state
    return tuple((str(path), stat(path)) for path in sorted(files_of(config)))


def files_of(config: Data) -> Iterator[Path]:
    """Yield the files that a data set is read from, as far as they are there."""
    root = Path(config.dir)
    if config.source == "npz":
        if file_of(config).exists():
            yield file_of(config)
        return
    # as torchvision's classes have them: SVHN's files, CIFAR's, and most others'
    patterns = ["*.mat", "cifar*/*", f"{config.dataset}/*/*"]
    if config.source == "images":
        patterns = ["train/**", "test/**"]  # classes may have folders within
    elif config.source == "sklearn":
        patterns = []
    # glob passes over what cannot be looked into
    yield from (
        root / name for pattern in patterns for name in glob(pattern, root_dir=root, recursive=True)
    )


def whole_files(config: Data) -> list[Path]:
    """List the files whose bytes alone decide the images; none where that is not known."""
    if Place.of(config) in received:
        return []
    if config.source == "npz":
        return [file_of(config)]
    if config.source in ("images", "sklearn") or config.dataset not in LIKE_MNIST:
        return []
    return [Path(config.dir, config.dataset, "raw", name) for name in NAMES]


def stat(path: Path) -> tuple[int, ...]:
    """Tell a file from what it was before; nothing of one that cannot be looked at."""
    try:
        found = path.stat()
    except OSError:
        return ()
    # an old modification time can be put back, that of the last change cannot
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def bytes_of(config: Data) -> int:
    """Estimate how much memory the images of a data set take as they are stored, in bytes."""
    if config.source == "npz":
        return npz_bytes(file_of(config))
    if config.source == "images":
        return image_folder_bytes(Path(config.dir), config.size)
    return sum(found[1] for path in files_of(config) if (found := stat(path)))
