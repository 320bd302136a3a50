"""Images in folders, one per class, as torchvision's ``ImageFolder`` has them."""

import logging
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from kd.data.idx import open_plain
from kd.data.parts import Parts
from kd.errors import UserError, reason, shown

log = logging.getLogger(__name__)

GREY = ("1", "L", "LA", "I;16", "I;16B", "I;16L", "I;16N", "I")  # Pillow's modes without colour
MANY = 5_000  # images from which on it is said that they are read


def read_image_folder(folder: Path, size: Sequence[int] | None) -> Parts:
    """Read ``train/CLASS/*`` and ``test/CLASS/*``: grey if all training images are, else in colour.

    Args:
        folder: holds ``train``, and ``test`` unless the split is pooled.
        size: height and width that they are resized to; None keeps theirs, which must be one.

    Raises:
        UserError: folders or classes are missing, an image cannot be read, or sizes differ.
    """
    classes, training, test = _find(folder)
    paths = [path for path, _ in (*training, *test)]
    if len(paths) >= MANY:
        log.info("reading %s images from %s", f"{len(paths):,}", folder)
    with ThreadPoolExecutor() as pool:
        modes, sizes = zip(*pool.map(lambda path: _look(folder, path), paths), strict=True)
        mode = "L" if set(modes[: len(training)]) <= set(GREY) else "RGB"
        if size is None:
            size = _one_size(folder, paths, sizes)
        images = np.empty((len(paths), *size, *((3,) if mode == "RGB" else ())), np.uint8)

        def read(number: int) -> None:
            with _opened(folder, paths[number]) as image:
                images[number] = _decode(image, mode, size)

        for _ in pool.map(read, range(len(paths))):
            pass
    labels = np.array([number for _, number in (*training, *test)], np.int64)
    first, second = slice(len(training)), slice(len(training), None)
    return Parts((images[first], labels[first]), (images[second], labels[second]), tuple(classes))


def image_folder_bytes(folder: Path, size: Sequence[int] | None) -> int:
    """Estimate how many bytes the images take, in colour and as large as the first one.

    Raises:
        UserError: see :func:`read_image_folder`.
    """
    _, training, test = _find(folder)
    height, width = size or _look(folder, training[0][0])[1]
    return (len(training) + len(test)) * height * width * 3


Found = list[tuple[Path, int]]  # files with their classes


def _find(folder: Path) -> tuple[list[str], Found, Found]:
    """Find the classes, and the files of training and test."""
    from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

    def files(part: str, numbers: dict[str, int]) -> Found:
        try:
            listed = make_dataset(
                str(folder / part), numbers, IMG_EXTENSIONS, allow_empty=part == "test"
            )
        except (OSError, ValueError) as error:
            raise UserError(f"data.dir={folder}: {part}: {reason(error)}") from error
        return [(Path(path), number) for path, number in listed]

    if not folder.is_dir():
        raise UserError(f"data.dir={folder}: no such folder")
    try:
        classes, numbers = find_classes(str(folder / "train"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"data.dir={folder}: holds no train/CLASS/ folders; images lie in train/CLASS/*.png "
            "and test/CLASS/*.png"
        ) from error
    if len(classes) < 2:
        raise UserError(f"data.dir={folder}: train has one class only, {shown(classes[0])}")
    training, place = files("train", numbers), folder / "test"
    there = {path.name for path in place.iterdir() if path.is_dir()} if place.is_dir() else set()
    if unknown := sorted(there - set(classes)):
        raise UserError(
            f"data.dir={folder}: test has a class that train lacks: {shown(unknown[0])}"
        )
    present = {name: number for name, number in numbers.items() if name in there}
    return classes, training, files("test", present) if present else []


def _one_size(folder: Path, paths: list[Path], sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return the height and width that all images have."""
    for path, size in zip(paths, sizes, strict=True):
        if size != sizes[0]:
            one, other = (f"{height} × {width}" for height, width in (sizes[0], size))
            raise UserError(
                f"data.dir={folder}: {shown(str(paths[0]))} is {one} pixels, {shown(str(path))} "
                f"is {other}; give data.size=[HEIGHT,WIDTH] to resize them"
            )
    return sizes[0]


@contextmanager
def _opened(folder: Path, path: Path) -> Generator[Image.Image]:
    """Open an image; whatever is wrong with it becomes one line that names it."""
    try:
        with open_plain(path) as file, Image.open(file) as image:
            yield image
    except Exception as error:  # each format has its own ways to fail
        why = "" if isinstance(error, UnidentifiedImageError) else f": {reason(error)}"
        raise UserError(
            f"data.dir={folder}: {shown(str(path))} cannot be read as an image{why}"
        ) from error


def _look(folder: Path, path: Path) -> tuple[str, tuple[int, int]]:
    """Return Pillow's mode of an image, and its height and width, without decoding it."""
    with _opened(folder, path) as image:
        return image.mode, (image.height, image.width)


def _decode(image: Image.Image, mode: str, size: Sequence[int]) -> np.ndarray:
    """Return an image's pixels: (height, width) or (height, width, 3) bytes."""
    if image.mode.startswith("I"):  # 16 bits per pixel, which Pillow would cut off at 255
        deep = np.asarray(image)
        if deep.min() < 0 or deep.max() >= 2**16:
            raise ValueError("it has more than 16 bits per pixel; save it with 8")
        image = Image.fromarray((deep / 257).round().astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("its pixels are floats, whose range is not known; save it with 8 bits")
    height, width = size
    pixels = image.convert(mode)
    if pixels.size != (width, height):
        pixels = pixels.resize((width, height), Image.Resampling.BILINEAR)  # it smooths as well
    return np.asarray(pixels)
