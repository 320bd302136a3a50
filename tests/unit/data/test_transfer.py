"""What a network trains on: fewer labels, wrong ones, fewer classes, images without a label."""

import numpy as np
import pytest
import torch
from helpers import DIGITS, MINI, metrics, one_line

from kd.config.schema import Augment, Data
from kd.data.module import ImageDataModule
from kd.data.transfer import NONE, transfer_set
from kd.errors import UserError
from kd.methods.base import cross_entropy


def module(**changes) -> ImageDataModule:
    sizes = {"val_size": 200, "test_size": 200, "batch_size": 32}
    data = ImageDataModule(Data(dir=str(DIGITS), source="folder", **sizes, **changes), seed=0)
    data.setup()
    return data


PLAIN = module()
TRAIN = PLAIN.indices["train"]


def taught(data: ImageDataModule) -> torch.Tensor:
    return data.taught.labels


def test_by_default_all_training_images_are_taught_as_they_are():
    assert torch.equal(taught(PLAIN), PLAIN.pool.labels)
    assert PLAIN.unlabelled is None
    assert len(TRAIN) == 800


@pytest.mark.parametrize(
    "changes",
    [
        {"train_size": 100},
        {"train_size": 100, "unlabelled": True},
        {"label_noise": 0.3},
        {"omit": [3]},
    ],
    ids=str,
)
def test_the_split_and_its_fingerprint_are_those_of_the_clean_labels(changes):
    data = module(**changes)
    assert data.fingerprint == PLAIN.fingerprint
    assert torch.equal(data.pool.labels, PLAIN.pool.labels)
    for part in ("val", "test"):
        assert torch.equal(data.indices[part], PLAIN.indices[part])
        assert torch.equal(taught(data)[data.indices[part]], PLAIN.pool.labels[data.indices[part]])


def test_fewer_labels_are_stratified_and_the_seeds():
    few = module(train_size=100).indices["train"]
    assert torch.bincount(PLAIN.pool.labels[few]).tolist() == [10] * 10
    assert set(few.tolist()) < set(TRAIN.tolist())
    assert torch.equal(few, module(train_size=100).indices["train"])
    assert torch.equal(module(train_size=800).indices["train"], TRAIN)


@pytest.mark.parametrize("share", [0.01, 0.2, 0.9])
def test_noise_makes_so_many_labels_those_of_other_classes(share):
    data = module(label_noise=share)
    wrong = taught(data) != data.pool.labels
    assert int(wrong.sum()) == int(wrong[TRAIN].sum()) == round(share * 800)
    if share == 0.9:  # each of the other nine classes as likely
        pairs = torch.stack([data.pool.labels[TRAIN], taught(data)[TRAIN]])
        counts = torch.zeros(10, 10).index_put_(tuple(pairs), torch.ones(800), accumulate=True)
        others = counts[~torch.eye(10, dtype=torch.bool)]
        assert others.mean() == 8
        assert others.std() < 2 * 8**0.5


def test_omitted_classes_are_not_trained_on():
    data = module(omit=[3, 7])
    assert set(taught(data)[data.indices["train"]].tolist()) == set(range(10)) - {3, 7}
    assert len(data.indices["train"]) == 640
    noisy = module(omit=[3], label_noise=0.5)
    assert 3 not in taught(noisy)[noisy.indices["train"]].tolist(), "nor taught by mistake"


def test_as_many_images_without_a_label_follow_those_with_one():
    data = module(train_size=96, unlabelled=True)
    batches = data.train_dataloader()
    assert len(batches) == 704 // 32
    assert batches.added == 32
    for _ in range(2):
        seen, labelled = [], []
        for batch in batches:
            assert batch.labelled == 32
            assert len(batch.images) == len(batch.indices) == 64
            assert batch.labels.sum(1).tolist() == [1] * 32 + [0] * 32
            assert torch.equal(batch.labels[:32].argmax(1), data.pool.labels[batch.indices[:32]])
            labelled += batch.indices[:32].tolist()
            seen += batch.indices[32:].tolist()
            logits = torch.randn(64, 10)
            alone = cross_entropy(logits[:32], batch.labels[:32].argmax(1))
            assert cross_entropy(logits, batch.labels) == pytest.approx(alone.item(), rel=1e-5)
        assert sorted(seen) == sorted(data.unlabelled.tolist()), "once each"
        counts = torch.tensor(labelled).unique(return_counts=True)[1]
        assert set(counts.tolist()) <= {7, 8}, "again and again, each pass in an order of its own"
    assert (taught(data)[data.unlabelled] == NONE).all()


@pytest.mark.parametrize("size", [20, 780])
def test_batches_are_full_whichever_set_is_larger(size):
    data = module(train_size=size, unlabelled=True)
    batches = list(data.train_dataloader())
    assert len(batches) == -(-max(size, 800 - size) // 32)
    assert {len(batch.indices) for batch in batches} == {64}
    assert {int(batch.labels.sum()) for batch in batches} == {32}


def test_views_of_images_without_a_label_have_none():
    data = module(train_size=96, unlabelled=True, augment=Augment(shift=2.0, extra=1))
    batch = next(iter(data.train_dataloader()))
    assert len(batch.images) == len(batch.labels) == 2 * (32 + 32)
    assert batch.labels.sum() == batch.labelled == 32


WRONG = [
    ({"train_size": 801}, "data.train_size=801: cannot be taken from 800 training images"),
    ({"train_size": 3}, "data.train_size=3: cannot be taken from 800 training images"),
    ({"omit": [10]}, "data.omit=[10]: the data has no class 10, only 0 to 9"),
    ({"omit": [*range(9)]}, "data.omit=[0,1,2,3,4,5,6,7,8]: leaves fewer than two classes"),
]


@pytest.mark.parametrize(("changes", "said"), WRONG, ids=[said for _, said in WRONG])
def test_settings_that_do_not_suit_the_images_are_named(changes, said):
    labels = PLAIN.pool.labels.numpy()
    with pytest.raises(UserError) as error:
        transfer_set(labels, TRAIN.numpy(), Data(**changes))
    assert said in str(error.value)


def test_a_teacher_of_all_clean_labels_teaches_a_student_of_few(cli, teacher):
    words = ("data.train_size=100", "data.unlabelled=true", "data.label_noise=0.2", "data.omit=[3]")
    said = cli("-m", "stage=student,distill", *MINI, *words, "seed=0,1")
    assert said.code == 0, said.err
    assert "4 students train together" in said.out
    (run, *_) = sorted((teacher.parents[1] / "distill").iterdir())
    found = metrics(run)
    assert found["data/train_size"] == 100
    assert found["data/label_noise"] == 0.2
    assert found["data/omit"] == "[3]"
    assert found["data/unlabelled"] is True
    assert found["data/fingerprint"] == metrics(teacher)["data/fingerprint"]
    threes = np.load(run / "predictions.npz")["labels"] == 3
    assert threes.sum() == 20, "tested on all classes"


def test_the_missing_teachers_command_has_no_words_of_its_student(cli):
    said = cli("stage=distill", *MINI, "data.train_size=100", "data.omit=[3]")
    one_line(
        said.err, "first run: python train.py stage=teacher data=mnist_mini trainer.max_epochs=2"
    )
    assert "omit" not in said.err


def test_a_teacher_obeys_them_when_they_are_given_to_it(cli):
    assert cli("stage=teacher", *MINI, "data.train_size=100").code == 0
    said = cli("stage=student", *MINI, "data.unlabelled=true")
    one_line(said.err, "data.unlabelled=true: needs data.train_size=NUMBER, which says how many")
