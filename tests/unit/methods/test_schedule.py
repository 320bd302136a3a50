"""When the teacher takes part: weights of labels and term over the training."""

from kd.methods.base import loss_weights_at
from kd.methods.hinton import Hinton


def test_the_weights_without_a_schedule_are_alphas():
    assert (
        loss_weights_at(Hinton(alpha=0.25), 0.1)
        == loss_weights_at(Hinton(alpha=0.25), 9)
        == (0.25, 0.75)
    )


def test_warming_up_the_teachers_weight_grows_to_its_own():
    kd = Hinton(alpha=0.5, warmup_epochs=4)
    assert [loss_weights_at(kd, e) for e in (1, 2, 4, 5)] == [
        (0.5, 0.125),
        (0.5, 0.25),
        (0.5, 0.5),
        (0.5, 0.5),
    ]


def test_after_the_stop_labels_teach_alone():
    kd = Hinton(alpha=0.1, stop_epoch=3)
    assert loss_weights_at(kd, 3.0) == (0.1, 0.9)
    assert loss_weights_at(kd, 3.01) == (1.0, 0.0)
