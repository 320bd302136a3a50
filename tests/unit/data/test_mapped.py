"""What tasks of one machine share: the bits that each would have by itself, made once."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import safetensors.torch
import torch
from helpers import DIGITS
from safetensors import SafetensorError

from kd.config.schema import Data
from kd.data import mapped, pool, sources
from kd.data.mapped import Made, among_tasks, made_once
from kd.data.module import ImageDataModule
from kd.errors import UserError


@pytest.fixture
def machine(tmp_path, monkeypatch) -> Path:
    """A machine's folder for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def task(machine) -> Iterator[None]:
    """This process is a task."""
    with among_tasks():
        yield


class Maker:
    """Makes numbers, and counts how often."""

    def __init__(self, numbers: int = 1000) -> None:
        self.numbers, self.times = numbers, 0

    def __call__(self) -> Made:
        self.times += 1
        return Made({"b": torch.rand(self.numbers), "a": torch.arange(3)}, ["told", None, 1.5])


def files(machine: Path) -> list[Path]:
    """What is kept."""
    return [*machine.glob("kd-*/*.safetensors")]


def same(one: Made, other: Made) -> bool:
    """Whether both have the same bits."""
    return one.told == other.told and all(
        torch.equal(one.tensors[name], other.tensors[name])
        for name in one.tensors.keys() | other.tensors.keys()
    )


def test_a_command_that_trains_by_itself_writes_nothing(machine):
    make = Maker()
    made_once("key", make)
    made_once("key", make)
    assert make.times == 2
    assert not any(machine.iterdir())


def test_what_one_task_has_made_the_next_one_maps(task, machine):
    make = Maker()
    first, second = made_once(["key", 1], make), made_once(["key", 1], make)
    assert make.times == 1
    assert same(first, second)
    (path,) = files(machine)
    assert Path("/proc/self/maps").read_text().count(str(path)) >= 2
    assert path.parent.stat().st_mode & 0o777 == 0o700
    made_once(["key", 2], make)
    assert make.times == 2


def test_what_a_task_writes_no_other_sees(task, machine):
    first, make = made_once("key", Maker()), Maker()
    before = first.tensors["b"].clone()
    first.tensors["b"].zero_()
    assert torch.equal(made_once("key", make).tensors["b"], before)
    assert not make.times


def test_tasks_that_begin_at_the_same_time_wait_for_the_first(machine):
    make = Maker()

    def slowly() -> Made:
        time.sleep(0.2)
        return make()

    def as_task(_: int) -> Made:
        with among_tasks():
            return made_once("key", slowly)

    with ThreadPoolExecutor(4) as threads:
        found = [*threads.map(as_task, range(4))]
    assert make.times == 1
    assert all(same(each, found[0]) for each in found)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
        lambda content: b"\xff" * 8 + content[8:],
        lambda content: content.replace(b"told", b"tole", 1),
        lambda content: b"",
    ],
)
def test_a_damaged_file_is_made_again(task, machine, caplog, damage: Callable[[bytes], bytes]):
    made = Maker()()
    made_once("key", lambda: made)
    (path,) = files(machine)
    whole = path.read_bytes()
    path.unlink()  # who has mapped it keeps it
    path.write_bytes(damage(whole))
    assert same(made_once("key", lambda: made), made)
    assert "making it again" in caplog.text
    assert same(made_once("key", make := Maker()), made)
    assert not make.times


@pytest.mark.parametrize("error", [OSError(28, "No space left"), SafetensorError("I/O error")])
def test_no_room_is_no_failure(task, machine, monkeypatch, error):
    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    make = Maker()
    made_once("key", make)
    assert make.times == 1
    assert not any(path.name.endswith(mapped.SUFFIX) for path in machine.glob("kd-*/*"))


def test_a_folder_that_others_may_write_to_is_not_used(task, machine):
    made_once("key", Maker())
    (path,) = files(machine)
    path.parent.chmod(0o770)
    make = Maker()
    made_once("key", make)
    made_once("another", make)
    assert make.times == 2
    shutil.rmtree(path.parent)
    path.parent.symlink_to(machine)
    made_once("key", make)
    assert make.times == 3
    assert not [*machine.glob("*.safetensors")]


def test_few_are_kept_and_who_has_mapped_one_keeps_it(task, machine, monkeypatch):
    monkeypatch.setattr(mapped, "MOST_BYTES", 20_000)  # four of these
    make = Maker()
    first = made_once(0, make)
    before = first.tensors["b"].clone()
    for key in range(1, 10):
        made_once(key, make)
    assert 2 <= len(files(machine)) <= 4
    made_once(9, make)
    assert make.times == 10
    assert torch.equal(first.tensors["b"], before)
    made_once("large", Maker(10_000))
    assert sum(path.stat().st_size for path in files(machine)) <= 20_000


def test_an_error_is_told(task, machine):
    def fail() -> Made:
        raise UserError("no")

    with pytest.raises(UserError, match="no"):
        made_once("key", fail)
    made_once("key", make := Maker())
    assert make.times == 1


def module(**given) -> ImageDataModule:
    """The data of a run, as in a process that has read nothing yet."""
    for cached in (pool._pool, pool._read):
        cached.cache_clear()
    data = ImageDataModule(Data(source="folder", val_size=200, **given), seed=0)
    data.prepare_data()
    data.setup()
    return data


def assert_same_bits(one: ImageDataModule, other: ImageDataModule) -> None:
    """Both give the same batches."""
    assert one.fingerprint == other.fingerprint
    assert one.task == other.task
    assert one.pool.images.stride() == other.pool.images.stride()
    loaders = ("train_dataloader", "val_dataloader", "predict_dataloader")
    for batches, others in ((getattr(d, name)() for d in (one, other)) for name in loaders):
        for batch, its in zip(batches, others, strict=True):
            assert all(map(torch.equal, batch[:3], its[:3]))


@pytest.mark.parametrize("views", ["none", "shift2"])
def test_mapped_images_are_those_that_are_read(machine, monkeypatch, views):
    expected = module(dir=str(DIGITS), views=views)
    assert not files(machine)
    with among_tasks():
        made = module(dir=str(DIGITS), views=views)
        assert len(files(machine)) == 2
        monkeypatch.setattr(pool, "_as_used", None)
        monkeypatch.setattr(pool, "split_indices", None)
        found = module(dir=str(DIGITS), views=views)
    assert_same_bits(made, expected)
    assert_same_bits(found, expected)


def test_other_files_are_other_images(task, machine, tmp_path):
    own = Path(shutil.copytree(DIGITS, tmp_path / "own"))
    before = module(dir=str(own))
    path = own / "MNIST" / "raw" / "train-images-idx3-ubyte"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert module(dir=str(own)).fingerprint != before.fingerprint


def test_images_that_were_sent_need_no_files(task, machine, monkeypatch, tmp_path):
    own = Path(shutil.copytree(DIGITS, tmp_path / "own"))
    expected = module(dir=str(own))
    contents = {}

    def sender(name: str, content: object) -> Callable[[], object]:
        contents[name] = content
        return lambda: contents[name]

    sent = pool.send(2 * [expected.config], sender)
    assert len(contents) == 1
    shutil.rmtree(own)
    for path in files(machine):
        path.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        module(dir=str(own))
    for place in sent:
        monkeypatch.setitem(sources.received, place, sent[place])
    assert_same_bits(module(dir=str(own)), expected)
    assert pool.fingerprint(expected.config) == expected.fingerprint
