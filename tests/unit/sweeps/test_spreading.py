"""What is sent to where a group trains."""

import pickle
from pathlib import Path

import pytest
from helpers import as_job, config
from omegaconf import DictConfig

from kd.sweeps.grouping import plan_groups
from kd.sweeps.spreading import Task


@pytest.fixture
def task(tmp_path, monkeypatch) -> Task:
    monkeypatch.chdir(tmp_path)
    words = ("stage=student", "data=mnist_mini", f"output_dir={tmp_path}")
    jobs = [as_job(config(*words, f"seed={seed}"), f"seed={seed}") for seed in range(3)]
    for job in jobs:
        job.hydra = DictConfig({"overrides": {"task": list(words)}, "job": {"id": "0"}})
    (group,), _ = plan_groups(jobs, jobs, {})
    return Task(group.members, group, 1)


def test_a_task_arrives_with_its_group_and_its_jobs_in_one(task):
    arrived = pickle.loads(pickle.dumps(task))
    assert arrived.group.planned == task.group.planned
    assert all(a is b for a, b in zip(arrived.jobs, arrived.group.members, strict=True))
    assert arrived.group.lead in arrived.jobs
    assert [job.config for job in arrived.jobs] == [job.config for job in task.jobs]
    assert arrived.jobs[0].hydra == {"overrides": task.jobs[0].hydra.overrides, "job": {"id": "0"}}
    assert arrived.jobs[0].hydra.overrides.task == task.jobs[0].hydra.overrides.task


def test_a_task_is_unpacked_where_the_command_was_given(task, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend("/somewhere/of/ones/own")
    content = pickle.dumps(task)
    monkeypatch.undo()
    monkeypatch.chdir("/")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.path", [])
        pickle.loads(content)
        import sys

        assert "/somewhere/of/ones/own" in sys.path
    assert Path.cwd() == tmp_path


def test_a_task_that_is_begun_again_is_what_was_sent(task):
    arrived = pickle.loads(pickle.dumps(task))
    content = pickle.dumps(arrived)
    arrived.jobs[0].lock = open  # whatever has become of it
    arrived.jobs[0].share = lambda: None
    assert pickle.dumps(arrived) == content
    assert pickle.loads(content).jobs[0].lock is None
