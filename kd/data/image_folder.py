"""Images in folders, one per class, as torchvision's ``ImageFolder`` has them."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from kd.data.parts import Part, Parts
from kd.errors import UserError, shown

log = logging.getLogger(__name__)

GREY = ("1", "L", "LA", "I;16", "I", "F")  # Pillow's modes without colour
MANY = 5_000  # images from which on it is said that they are read


def read_image_folder(folder: Path, size: Sequence[int] | None) -> Parts:
    """Read ``train/CLASS/*`` and ``test/CLASS/*``: grey if all training images are, else in colour.

    Args:
        folder: that holds ``train``, and ``test`` unless all are split anew.
        size: height and width that they are resized to; None keeps theirs, which must be one.

    Raises:
        UserError: folders or classes are missing, an image cannot be read, or sizes differ.
    """
    classes, training, test = _find(folder)
    if len(training) + len(test) >= MANY:
        log.info("reading %d images from %s", len(training) + len(test), folder)
    with ThreadPoolExecutor() as pool:
        modes = set(pool.map(lambda found: _look(folder, found[0]).mode, training))
        mode = "L" if modes <= set(GREY) else "RGB"
        first = training[0][0]
        shape = tuple(size) if size is not None else _look(folder, first).size[::-1]

        def read(found: tuple[Path, int]) -> np.ndarray:
            pixels = _decode(folder, found[0], mode, size)
            if pixels.shape[:2] != shape:
                one, other = (" × ".join(map(str, s)) for s in (shape, pixels.shape[:2]))
                raise UserError(
                    f"data.dir={folder}: {first} is {one} pixels, {found[0]} is {other}; give "
                    "data.size=[HEIGHT,WIDTH] to resize them"
                )
            return pixels

        of_training, of_test = ([*pool.map(read, part)] for part in (training, test))
    empty = np.empty((0, *of_training[0].shape), np.uint8)
    return Parts(_part(of_training, training, empty), _part(of_test, test, empty), tuple(classes))


def image_folder_bytes(folder: Path, size: Sequence[int] | None) -> int:
    """Estimate how many bytes the images take, in colour and as large as the first one.

    Raises:
        UserError: see :func:`read_image_folder`.
    """
    _, training, test = _find(folder)
    height, width = size or _look(folder, training[0][0]).size[::-1]
    return (len(training) + len(test)) * height * width * 3


Found = list[tuple[Path, int]]  # files with their classes


def _find(folder: Path) -> tuple[list[str], Found, Found]:
    """Find the classes, and the files of training and test."""
    from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

    try:
        classes, numbers = find_classes(str(folder / "train"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"data.dir={folder}: holds no train/CLASS/ folders; images lie in train/CLASS/*.png "
            "and test/CLASS/*.png"
        ) from error
    if len(classes) < 2:
        raise UserError(f"data.dir={folder}: train has one class only, {shown(classes[0])}")

    def files(part: str) -> Found:
        try:
            listed = make_dataset(str(folder / part), numbers, IMG_EXTENSIONS)
        except (OSError, ValueError) as error:
            reason = shown(" ".join(str(error).split()))
            raise UserError(f"data.dir={folder}: {part}: {reason}") from error
        return [(Path(path), number) for path, number in listed]

    training = files("train")
    if not (folder / "test").is_dir():
        return classes, training, []
    known = {path.name for path in (folder / "test").iterdir() if path.is_dir()}
    if unknown := sorted(known - set(classes)):
        raise UserError(
            f"data.dir={folder}: test has a class that train lacks: {shown(unknown[0])}"
        )
    return classes, training, _present(folder, numbers, known)


def _present(folder: Path, numbers: dict[str, int], known: set[str]) -> Found:
    """Find the test files of the classes that have any."""
    from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

    present = {name: numbers[name] for name in known}
    listed = make_dataset(str(folder / "test"), present, IMG_EXTENSIONS, allow_empty=True)
    return [(Path(path), number) for path, number in listed]


def _look(folder: Path, path: Path) -> Image.Image:
    """Open an image without decoding it."""
    try:
        with Image.open(path) as image:
            return image
    except Exception as error:  # each format has its own ways to fail
        raise UserError(f"data.dir={folder}: {path} cannot be read as an image") from error


def _decode(folder: Path, path: Path, mode: str, size: Sequence[int] | None) -> np.ndarray:
    """Read an image's pixels, (height, width) or (height, width, 3) bytes."""
    try:
        with Image.open(path) as image:
            if image.mode.startswith("I"):  # 16 bits per pixel, which Pillow would cut off at 255
                image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
            pixels = image.convert(mode)
            if size is not None:
                pixels = pixels.resize((size[1], size[0]), Image.Resampling.BILINEAR)
            return np.asarray(pixels, np.uint8)
    except Exception as error:
        raise UserError(f"data.dir={folder}: {path} cannot be read as an image") from error


def _part(pixels: list[np.ndarray], found: Found, empty: np.ndarray) -> Part:
    labels = np.array([number for _, number in found], np.int64)
    return (np.stack(pixels) if pixels else empty), labels
