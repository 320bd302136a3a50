"""Words of the command line: their order, and how many runs they make."""

import pytest

from kd.config.command_line import check


def test_flags_may_follow_words():
    assert check(["seed=1", "-m", "kd.T=1,2"]) == ["-m", "seed=1", "kd.T=1,2"]


def test_a_large_sweep_is_counted_before_it_is_listed(capsys):
    check(["-m", "seed=range(0,1000)"])
    assert capsys.readouterr().out == ""
    check(["-m", "kd.T=range(1,100000)"])
    assert capsys.readouterr().out == "", "it is planned"
    check(["-m", "kd.T=range(1,100000)", "hydra/launcher=basic"])
    said = capsys.readouterr().out
    assert said.startswith("99999 runs: 83 minutes to 3 hours for every epoch of a student")
    assert said.count("\n") == 1
    check(
        [
            "hydra.mode=MULTIRUN",
            "kd=glob(*)",
            "seed=shuffle(range(0,100))",
            "kd.T=2,3",
            "hydra/sweeper=basic",
        ]
    )
    assert capsys.readouterr().out.startswith("2800 runs: 2 minutes to")


@pytest.mark.parametrize("typed", ["stage=", "kd.T=1, kd.al", "x@y k", "'a", "kd=foo kd."])
def test_completion_of_a_half_typed_line_prints_no_error(cli, monkeypatch, typed):
    monkeypatch.setenv("COMP_LINE", f"python train.py {typed}")
    said = cli("-sc", "query=bash")
    assert said.err == ""
    assert "Traceback" not in said.out
