"""How a sweep's board hears of the epochs of a group."""

from collections.abc import Sequence

from pytorch_lightning import Trainer

from kd.sweeps.board import Board
from kd.sweeps.job_configs import Job
from kd.training.book import Bookkeeper
from kd.training.callbacks import ShowProgress


class Watch(ShowProgress):
    """Tells a board of each epoch of a group; where that draws nothing, shows the group by itself.

    Args:
        board: of the sweep.
        members: the jobs of the group.
        students: the number of each one's student.
    """

    def __init__(self, board: Board, members: Sequence[Job], students: Sequence[int]) -> None:
        super().__init__(every=1)
        self.board, self.members = board, list(zip(members, students, strict=True))

    def on_train_start(self, trainer: Trainer, pl_module: Bookkeeper) -> None:
        """Put up the bar, where no board is drawn."""
        self.board.draw()
        if not self.board.speaks:
            super().on_train_start(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Bookkeeper) -> None:
        """Tell how each student stands."""
        live = set(pl_module.live)
        for job, student in self.members:
            accuracies = pl_module.column("val/acc", student)
            kept = accuracies[pl_module.epoch_kept(student) - 1]
            self.board.note(job, len(accuracies), kept, student not in live)
        self.board.draw()
        if not self.board.speaks:
            super().on_train_epoch_end(trainer, pl_module)
