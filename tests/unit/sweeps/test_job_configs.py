"""Configurations of jobs by copy: what Hydra itself composes, and nobody else's to change."""

import sys

import pytest
from helpers import CONF, MINI
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf

from kd.sweeps.job_configs import copying

JOBS = [
    *(["stage=distill", f"kd.T={T}", f"kd.alpha={a}", "seed=1"] for T in (1, 2.5) for a in (0, 1)),
    ["stage=distill", "kd.T=3", "seed=2"],
    *(["kd=dkd", f"kd.target_weight={w}", "trainer=cpu"] for w in (1, 2)),
    *(["+experiment=talk", f"model.hidden={width}", "study=null"] for width in (3, 4)),
    *(["stage=distill", f"teacher.checkpoint={paths}"] for paths in ("[a,b]", "[c]", "null")),
    *(["stage=distill", f"teacher.checkpoint={path}"] for path in ('"a=1,b"', "'c d'", "e")),
    *(["hydra.job.name=other", f"data.augment.shift={n}"] for n in (1, 2)),
    *([f"kd.T={T}", f"kd.T={T + 1}", "kd.alpha=0.5"] for T in (1, 2)),
    *([f"kd.T={T}", f"seed={T}", "kd.alpha=${optim.lr}"] for T in (1, 2)),
    *([f"kd.T={T}", "++kd.T=5"] for T in (1, 2)),
    *([f"kd.T={T}", "kd={T:5}"] for T in (1, 2)),
    *(["hydra.job.config.override_dirname.kv_sep=:", f"seed={seed}"] for seed in (1, 2)),
]


@pytest.fixture
def loaders(monkeypatch):
    """Hydra's function for a job's configuration, the one that copies, and what that composes."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        words = ["hydra.job.num=7", "stage=student"]
        master = loader.load_configuration("config", words, run_mode=RunMode.MULTIRUN)
        compose, asked = loader.load_sweep_config, []

        def noting(master_config, words):
            asked.append(words)
            return compose(master_config, words)

        monkeypatch.setattr(loader, "load_sweep_config", noting)
        copied = copying(loader)
        yield lambda words: compose(master, words), lambda words: copied(master, words), asked


@pytest.mark.slow
def test_a_copy_is_what_hydra_composes(loaders):
    composed, copied = ([load(words) for words in JOBS] for load in loaders[:2])
    assert len(loaders[2]) < len(JOBS) - 8, "most are copies"
    for mine, its in zip(copied, composed, strict=True):
        assert OmegaConf.to_yaml(mine) == OmegaConf.to_yaml(its)
        assert OmegaConf.is_struct(mine)


GROUPS = [
    (folder.name, choice.stem)
    for folder in sorted(path for path in CONF.iterdir() if path.is_dir())
    for choice in sorted(folder.glob("*.yaml"))
]


@pytest.mark.parametrize(("group", "choice"), GROUPS)
def test_a_copy_is_what_hydra_composes_of_every_choice(loaders, group, choice):
    plus = "+" if group in ("debug", "experiment") else ""
    jobs = [[f"{plus}{group}={choice}", f"seed={seed}", "optim.lr=0.5"] for seed in (0, 1)]
    for words in jobs:
        assert OmegaConf.to_yaml(loaders[1](words)) == OmegaConf.to_yaml(loaders[0](words))
    assert len(loaders[2]) == 1, "the second is a copy"


def test_copying_can_be_switched_off(cli, monkeypatch):
    def copying(loader):
        raise AssertionError("is switched off")

    Plugins.instance()  # has loaded ours by then
    monkeypatch.setattr(sys.modules["hydra_plugins.sweep_launcher"], "copying", copying)
    said = cli("-m", "stage=student", *MINI, "seed=0,1", "hydra.launcher.copy_configs=false")
    assert said.code == 0, said.err
    assert "2 of 2 runs complete" in said.out


def test_changing_one_jobs_configuration_changes_no_others(loaders):
    _, copied, _ = loaders
    one = copied(["stage=distill", "kd.T=1"])
    one.hydra.sweep.subdir, one.optim.lr = "mine", 7.0
    other = copied(["stage=distill", "kd.T=2"])
    assert copied(["stage=distill", "kd.T=1"]) is one
    assert (other.optim.lr, other.kd.T) == (0.01, 2)
    assert "mine" not in OmegaConf.to_yaml(other.hydra)


def test_an_unknown_key_is_refused_as_ever(loaders):
    for load in loaders[:2]:
        with pytest.raises(HydraException, match=r"kd\.temperature"):
            load(["stage=distill", "kd.temperature=3"])
