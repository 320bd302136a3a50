"""Large sweeps planned from their ranges: the jobs that Hydra's own sweeper would make."""

import itertools
import pickle
import time

import pytest
from helpers import CONF
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode

from kd.config.schema import relevant
from kd.errors import UserError
from kd.sweeps.job_configs import compose_jobs, copying, make_job, read_lists
from kd.sweeps.ranges import plan_families

SWEEPS = [
    "stage=student,distill kd.T=1,2.5 kd.alpha=0,1 seed=0,1",
    "stage=distill kd=hinton,dkd kd.T=1,2 seed=range(0,3)",
    "stage=distill kd=dkd kd.target_weight=1,2 kd.T=1,1.0,2",
    "stage=student model=mlp,cnn model.dropout=0,0.1 seed=0,1",
    "stage=student model.lr=1e-2,1e-3 seed=0,1",
    "stage=student model.lr=1e-2,1e-3 optim.lr=1e-2,3e-3",
    "stage=distill model.hidden=8,16 optim.lr=1e-3,1e-2 kd.alpha=0,0.5",
    "stage=distill kd.alpha=${optim.lr} optim.lr=1e-3,1e-2",
    "stage=distill data.train_size=100,200 data.label_noise=0,0.2 seed=0,1 kd.T=1,2",
    "stage=distill study=a,b trainer.max_epochs=1,2 optim=adam,sgd",
    "stage=student kd.T=1,2 kd.alpha=0,0.5",
    "+experiment=talk stage=student,distill kd.T=1,10 seed=0,1",
    "stage=distill 'tags=[a],[b]' kd.T=1",
]


@pytest.fixture(scope="module")
def compose():
    """Hydra's function for a job of a sweep, and the sweep's own configuration."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        words = ["hydra.job.num=0", "data=mnist_mini"]
        master = loader.load_configuration("config", words, run_mode=RunMode.MULTIRUN)
        yield copying(loader), master


def lists_of(sweep: str) -> list[list[str]]:
    words = [*sweep.replace("'", "").split(), "data=mnist_mini"]
    return read_lists(OverridesParser.create().parse_overrides(words))


@pytest.mark.parametrize("sweep", SWEEPS)
def test_the_jobs_are_those_that_hydra_would_make(compose, sweep):
    load, master = compose
    lists = lists_of(sweep)
    jobs = compose_jobs(load, master, [list(words) for words in itertools.product(*lists)])
    expected = {job.directory: job for job in reversed(jobs)}
    families = plan_families(lists, lambda words: make_job(load(master, words)))
    found = {}
    for family in families:
        blocks = list(family.blocks(3))
        assert sum(map(len, blocks)) == len(family)
        for block in blocks:
            for job in block.jobs():
                assert job.directory not in found
                found[job.directory] = job
                assert relevant(job.config) == relevant(expected[job.directory].config)
    assert found.keys() == expected.keys()


def test_blocks_have_names_of_their_own(compose):
    load, master = compose
    lists = lists_of("stage=student,distill kd=hinton,dkd kd.T=1,2,3 seed=0,1,2")
    families = plan_families(lists, lambda words: make_job(load(master, words)))
    names = [block.name for family in families for block in family.blocks(2)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        ("stage=distill kd.T=1,2 kd.alpha=0,0.5,7", "kd.alpha=7: must be"),
        ("stage=student seed=0,1,-1", "seed=-1: must be"),
        ("stage=student optim.momentum=0,0.9 seed=0,1", "is of optim=sgd"),
        ("stage=report,student seed=0,1", "stage=report"),
        ("stage=student trainer.patience=1,two", "trainer.patience=two: must be"),
    ],
)
def test_a_wrong_value_is_refused_before_any_job(compose, sweep, said):
    load, master = compose
    with pytest.raises(UserError, match=said):
        plan_families(lists_of(sweep), lambda words: make_job(load(master, words)))


def test_a_million_jobs_are_planned_at_once(compose):
    load, master = compose
    lists = lists_of("stage=distill kd.T=range(1,101) kd.alpha=range(0,1,0.01) seed=range(0,100)")
    started = time.process_time()
    (family,) = plan_families(lists, lambda words: make_job(load(master, words)))
    blocks = list(family.blocks(1000))
    assert len(family) == 1_000_000
    assert len(blocks) == 1000
    assert time.process_time() - started < 20
    assert len(blocks[-1].jobs(3)) == 3
    jobs = blocks[-1].jobs()
    assert {job.config.seed for job in jobs} == {99}
    assert len({job.name for job in jobs}) == 1000


def test_a_key_of_many_values_is_planned_at_once(compose):
    load, master = compose
    lists = lists_of("stage=student seed=range(0,30000)")
    started = time.process_time()
    (family,) = plan_families(lists, lambda words: make_job(load(master, words)))
    blocks = list(family.blocks(1000))
    assert [job.config.seed for block in blocks[:2] for job in block.jobs()] == [*range(2000)]
    assert len(pickle.dumps(blocks[7].axes)) < 20_000, "it has its own values alone"
    assert time.process_time() - started < 10
