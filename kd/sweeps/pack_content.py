"""What the runs of a block come to, until it is packed."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from kd._startup import lazy
from kd.config.schema import flatten
from kd.errors import UserError
from kd.sweeps.job_configs import Job, plain_node
from kd.sweeps.ranges import Block
from kd.training.unfinished import digest

if TYPE_CHECKING:
    from kd.training import pack_writing, train_run
else:
    pack_writing, train_run = lazy("kd.training.pack_writing"), lazy("kd.training.train_run")


class Content:
    """What the runs of a block come to, until it is packed.

    Args:
        block: whose runs.
    """

    def __init__(self, block: Block) -> None:
        self.block, self.lead = block, block.lead
        self.results: list[pack_writing.Result] = []
        self.failed: dict[str, str] = {}  # by the name of a run whose network diverged: why
        self.tested: Any = None  # of one of the runs: they have the same test images

    def add(self, job: Job) -> None:
        """Test the network of a job that has trained; a job whose network diverged fails."""
        if job.failure or job.share is None:
            return
        share, job.share = job.share, None  # it has the weights, which are kept here from now on
        try:
            trained = share.train()
            tested = self.tested = train_run.assess(job.config, share.material, trained)
        except UserError as error:
            job.failure, self.failed[job.name] = error, str(error)
            return
        store, flat = self.lead.config.store, flatten(job.config)
        few = tested.logits.shape[1] <= 256
        on_cpu = {name: weight.cpu() for name, weight in trained.weights.items()}
        result = pack_writing.Result(
            name=job.name,
            metrics=train_run.metrics_of(job.config, share.material, trained, tested),
            words=list(job.hydra.overrides.task),
            settings={axis.key: flat[axis.key] for axis in self.block.axes},
            history=trained.rows,
            classes=tested.logits.argmax(1).numpy().astype(np.uint8 if few else np.uint16),
            weights=None if store.weights == "none" else on_cpu,
            logits=tested.logits.numpy().astype(np.float16) if store.logits else None,
        )
        self.results.append(result)

    def write(self) -> None:
        """Write the pack; without a run that was trained together there is none."""
        if not (self.results or self.failed):
            return
        if self.lead.config.store.weights == "best":
            _, best = self.best
            for result in self.results:
                result.weights = result.weights if result.name == best else None
        tested = self.tested
        indices = tested.indices.numpy() if tested else None
        labels = tested.labels.numpy() if tested else None
        node = dict(plain_node(self.lead))
        settings = asdict(self.lead.config)
        common = pack_writing.Common(settings, node, indices, labels, self.failed)
        folder = self.block.folder
        if len(self.results) + len(self.failed) < len(self.block):  # the others lie elsewhere
            names = [*(result.name for result in self.results), *self.failed]
            folder = folder.with_name(digest([self.block.name, names]))
        pack_writing.write(folder, self.results, common)

    @property
    def best(self) -> tuple[float, str]:
        """The best validation accuracy, and whose it is."""
        found = ((result.metrics["val/acc"], result.name) for result in self.results)
        return max(found, default=(0.0, ""))
