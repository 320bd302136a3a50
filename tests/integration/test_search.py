"""Searches: proposals in batches, halving, a choice confirmed on fresh seeds, kills, bad input."""

import shutil
import signal
from pathlib import Path

import optuna
import pytest
from helpers import MINI, complete, metrics, one_line, tree
from optuna.trial import TrialState
from torture import harness

from kd.search import read_search
from kd.search.reading import FAILED, Found

SPACE = ("kd.T=tag(log,interval(1,64))", "kd.alpha=interval(0,1)")
RATE = "optim.lr=tag(log,interval(1e-3,3e-2))"
SEARCH = ("-m", "hydra/sweeper=search", "stage=distill", *MINI)
SMALL = (*SEARCH, *SPACE, RATE, "search.trials=6", "search.batch=4", "search.confirm=2")
HALVING = ("trainer.max_epochs=4", "search.halving=2")
OUTPUTS = Path("outputs/main")


def found() -> Found:
    """The search of the main study."""
    search = read_search(OUTPUTS)
    assert search
    return search


def of_trials(search: Found) -> list[tuple]:
    """What was tried and what came of it."""
    return [(t.params, t.state, t.value, t.intermediate_values) for t in search.trials]


def test_a_search_trains_batches_and_confirms_its_choice_on_fresh_seeds(cli, teacher):
    said = cli(*SMALL)
    assert said.code == 0, said.err
    assert said.out.count("4 students train together") == 2  # a batch; two seeds with controls
    assert said.out.count("2 students train together") == 1
    search = found()
    assert [t.state for t in search.trials] == [TrialState.COMPLETE] * 6
    best = max(search.trials, key=lambda t: t.value)
    assert search.chosen.params == best.params
    for trial in search.trials:
        (name,) = trial.user_attrs["runs"]
        assert metrics(OUTPUTS / name)["val/acc"] == trial.value
        assert metrics(OUTPUTS / name)["kd/T"] == pytest.approx(trial.params["kd.T"], rel=1e-4)
    chosen = [metrics(OUTPUTS / name) for name in search.confirmed]
    assert [m["seed"] for m in chosen] == [1, 2]
    assert {m["kd/T"] for m in chosen} == {float(f"{best.params['kd.T']:.5g}")}
    controls = [metrics(run) for run in complete(stage="student")]
    assert [m["seed"] for m in controls] == [1, 2]
    assert {m["optim/lr"] for m in controls} == {chosen[0]["optim/lr"]}
    assert "in the search, where it was the best of many" in said.out
    assert len(said.out) < 4000  # no line per trial


@pytest.mark.slow
def test_no_test_figure_is_said_before_the_choice(cli, teacher):
    said = cli(*SMALL)
    before, _, after = said.out.partition("fresh seeds, to confirm it")
    assert "test acc" not in before
    assert "test accuracy" in after


@pytest.mark.slow
def test_the_same_command_again_trains_nothing(cli, teacher):
    cli(*SMALL)
    before = tree(OUTPUTS / "distill")
    said = cli(*SMALL)
    assert said.code == 0, said.err
    assert "train together" not in said.out
    assert tree(OUTPUTS / "distill") == before


@pytest.mark.slow
def test_a_search_goes_on_to_more_trials(cli, teacher):
    cli(*SMALL)
    before = of_trials(found())
    assert cli(*SMALL, "search.trials=9").code == 0
    after = of_trials(found())
    assert after[:6] == before
    assert len(after) == 9


@pytest.mark.slow
def test_the_seed_decides_the_proposals(cli, teacher):
    def proposed(study: str, *words: str) -> list[dict]:
        told = [w for w in SMALL if not w.startswith("search.")]
        place = 'teacher.checkpoint="outputs/main/teacher/' + teacher.name + '"'
        few = ("search.trials=3", "search.confirm=0", f"study={study}")
        assert cli(*told, place, *few, *words).code == 0
        return [trial.params for trial in read_search(Path("outputs", study)).trials]

    one, again, other = proposed("a"), proposed("b"), proposed("c", "search.seed=1")
    assert one == again
    assert not any(mine == its for mine, its in zip(one, other, strict=True))
    assert proposed("d", "search.sampler=random") != one or len(one) < 10


@pytest.mark.slow
def test_the_mean_of_the_seeds_counts(cli, teacher):
    said = cli(*SMALL, "search.seeds=0,1,2", "search.trials=3", "search.confirm=1")
    assert said.code == 0, said.err
    for trial in found().trials:
        values = [metrics(OUTPUTS / name)["val/acc"] for name in trial.user_attrs["runs"]]
        assert len(values) == 3
        assert trial.value == pytest.approx(sum(values) / 3)
    assert [metrics(OUTPUTS / name)["seed"] for name in found().confirmed] == [3]


@pytest.mark.slow
def test_the_worst_leave_the_stack(cli, teacher):
    said = cli(*SMALL, *HALVING, "search.batch=8", "search.trials=12")
    assert said.code == 0, said.err
    search = found()
    first = search.trials[:8]
    states = [trial.state for trial in first]
    assert states.count(TrialState.COMPLETE) == 2  # 8, then 4 after one epoch, then 2 after two
    at_rung = {t.number: t.intermediate_values for t in first}
    assert sorted(map(len, at_rung.values())) == [1, 1, 1, 1, 2, 2, 2, 2]
    for rung in (1, 2):
        there = {number: v[rung] for number, v in at_rung.items() if rung in v}
        stayed = {n for n in there if len(at_rung[n]) > rung or states[n] == TrialState.COMPLETE}
        gone = there.keys() - stayed
        assert min(there[n] for n in stayed) >= max(there[n] for n in gone)
    for trial in search.trials:
        (name,) = trial.user_attrs["runs"]
        assert (OUTPUTS / name / "metrics.json").exists() == (trial.state == TrialState.COMPLETE)
    assert not (OUTPUTS / "unfinished").exists()


@pytest.mark.slow
def test_later_batches_are_judged_by_all_that_came_to_a_rung(cli, teacher):
    cli(*SMALL, *HALVING, "search.batch=4", "search.trials=12")
    values: dict[int, float] = {}
    for trial in found().trials:
        values[trial.number] = trial.intermediate_values[1]
    for start in (0, 4, 8):
        known = {n: v for n, v in values.items() if n < start + 4}
        best = sorted(known, key=lambda n: (-known[n], n))[: max(1, len(known) // 2)]
        for trial in found().trials[start : start + 4]:
            assert (2 in trial.intermediate_values) == (trial.number in best)


@pytest.mark.slow
def test_a_student_that_stays_is_the_one_without_halving(cli, teacher):
    cli(*SMALL, *HALVING, "search.trials=4", "search.confirm=0")
    halved = found()
    place = f'teacher.checkpoint="outputs/main/teacher/{teacher.name}"'
    assert (
        cli(
            *SMALL,
            "trainer.max_epochs=4",
            "search.trials=4",
            "search.confirm=0",
            "study=whole",
            place,
        ).code
        == 0
    )
    whole = read_search(Path("outputs/whole"))
    for one, other in zip(halved.trials, whole.trials, strict=True):
        assert one.params == other.params
        if one.state == TrialState.COMPLETE:
            assert one.value == pytest.approx(other.value, abs=0.006)  # a smaller stack rounds


def test_a_trial_that_diverges_fails_alone(cli, teacher):
    said = cli(*SEARCH, "optim=sgd", "optim.lr=0.01,1e30", "search.trials=8", "search.confirm=0")
    assert said.code == 0, said.err
    failed = [t for t in found().trials if FAILED in t.user_attrs]
    assert 0 < len(failed) < 8
    assert all("diverged" in t.user_attrs[FAILED] for t in failed)
    assert {float(t.params["optim.lr"]) for t in failed} == {1e30}
    assert f"8 trials ({len(failed)} failed)" in said.out


def test_a_search_where_every_trial_fails_ends(cli, teacher):
    one_line(cli(*SEARCH, "optim=sgd", "optim.lr=1e30,1e29", "search.trials=80").err, "diverged")


def test_a_control_by_its_setting_is_not_chosen(cli, teacher):
    assert cli(*SEARCH, "kd.alpha=0.5,1", "search.trials=6", "search.confirm=1").code == 0
    assert found().chosen.params == {"kd.alpha": "0.5"}


@pytest.mark.slow
def test_methods_and_widths_are_searched_too(cli, teacher):
    words = ("kd=hinton,dkd", "model.hidden=interval(8,64)", "data.batch_size=range(32,128,32)")
    said = cli(*SEARCH, *words, "search.trials=6", "search.confirm=1")
    assert said.code == 0, said.err
    hidden = [trial.params["model.hidden"] for trial in found().trials]
    assert all(type(width) is int and 8 <= width <= 64 for width in hidden)
    assert {t.params["data.batch_size"] for t in found().trials} <= {32, 64, 96}


def test_the_student_alone_is_searched_without_a_teacher(cli):
    said = cli("-m", "hydra/sweeper=search", "stage=student", *MINI, RATE, "search.trials=3")
    assert said.code == 0, said.err
    assert len(found().confirmed) == 10


@pytest.mark.slow
def test_one_by_one_it_finds_the_same(cli, teacher):
    few = (*SEARCH, *SPACE, "search.trials=3", "search.confirm=1")
    assert cli(*few).code == 0
    place = f'teacher.checkpoint="outputs/main/teacher/{teacher.name}"'
    assert cli(*few, "hydra/launcher=basic", "study=alone", place).code == 0
    alone = read_search(Path("outputs/alone"))
    for one, other in zip(found().trials, alone.trials, strict=True):
        assert one.params == other.params
        assert one.value == pytest.approx(other.value, abs=0.006)
    assert len(alone.confirmed) == 1


@pytest.mark.slow
def test_the_loss_is_made_small(cli, teacher):
    assert cli(*SMALL, "search.metric=val/loss", "search.confirm=0").code == 0
    assert found().study.direction == optuna.study.StudyDirection.MINIMIZE
    assert found().chosen.value == min(trial.value for trial in found().trials)


@pytest.mark.slow
def test_the_report_has_the_search_and_its_verdict_the_fresh_seeds(cli, teacher):
    cli(*SMALL, "search.confirm=3", "search.trials=8")
    said = cli("stage=report")
    assert said.code == 0, said.err
    page = (OUTPUTS / "report/index.html").read_text()
    section = page.partition('<section id="search">')[2].partition("</section>")[0]
    assert "8 trials" in section
    assert "On 3 fresh seeds the same setting has" in section
    assert section.count("<svg") == 5  # importances, all trials, and a slice of each number
    assert "3 seeds" in page.partition('id="verdict"')[2].partition("</section>")[0]
    table = (OUTPUTS / "report/search.csv").read_text().splitlines()
    assert len(table) == 9
    assert len((OUTPUTS / "report/runs.csv").read_text().splitlines()) == 8  # no trial among them


def test_a_report_of_trials_alone_says_what_is_missing(cli, teacher):
    cli(*SMALL, "search.confirm=0", "study=bare", f'teacher.checkpoint="{teacher}"')
    one_line(cli("stage=report", "study=bare").err, "search.confirm=10")


@pytest.mark.slow
def test_a_damaged_file_leaves_the_report_whole(cli, teacher):
    cli(*SMALL)
    (OUTPUTS / "search.log").write_text("no journal\n")
    assert cli("stage=report").code == 0
    assert "search.log" in (OUTPUTS / "report/index.html").read_text()
    one_line(cli(*SMALL).err, "search.log: cannot be read as the file of a search")


@pytest.mark.slow
def test_half_a_line_at_the_end_is_cut_off(cli, teacher):
    cli(*SMALL)
    before = of_trials(found())
    with (OUTPUTS / "search.log").open("a") as file:
        file.write('{"op_code":4,"wor')
    (OUTPUTS / "search.log.lock").symlink_to("search.log")
    assert cli(*SMALL, "search.trials=7").code == 0
    assert of_trials(found())[:6] == before
    assert len(found().trials) == 7


WRONG = [
    (["kd.T=interval(0,10)"], "kd.T=0: must be a number above 0, up to 1000"),
    (["kd.alpha=interval(0,1.5)"], "kd.alpha=1.5: must be a number from 0 to 1"),
    (["kd.T=1,0,2"], "kd.T=0: must be a number above 0"),
    (["model.hidden=interval(0.5,8)"], "model.hidden=0.5: must be"),
    (["kd.alpha=tag(log,interval(0,1))"], "an interval of logarithms begins above 0"),
    (["kd.T=tag(exp,interval(1,2))"], "of tags a search knows log"),
    (["kd.T=interval(4,1)"], "an interval goes from less to more"),
    (["kd.TT=interval(1,4)"], "kd.TT: no such key; did you mean kd.T?"),
    ([*SPACE, "search.metric=val/accuracy"], "search.metric=val/accuracy: must be val/acc or val"),
    ([*SPACE, "search.metric=test/acc"], "for no test or training figure may choose"),
    ([*SPACE, "hydra.launcher.backend=joblib"], "joblib: a search trains in this process"),
    ([*SPACE, "search.trials=0"], "search.trials=0: must be a whole number from 1 to"),
    ([*SPACE, "search.batch=0"], "search.batch=0: must be a whole number from 1 to"),
    ([*SPACE, "search.seeds=0,0"], "must be a list of different seeds"),
    ([*SPACE, "search.halving=1"], "search.halving=1: must be null or a whole number from 2"),
    ([*SPACE, "search.halving=3"], "search.halving=3: needs as many epochs, and trainer.max_ep"),
    ([*SPACE, "search.halving=2", "hydra/launcher=basic"], "trains a batch together"),
    ([*SPACE, "search.halving=2", "trainer.max_epochs=4,8"], "needs one trainer.max_epochs"),
    ([*SPACE, "search.trial=3"], "search.trial: no such key; did you mean search.trials?"),
    ([*SPACE, "search.trials=3,4"], "search.trials: is the same for all trials"),
    ([*SPACE, "seed=1"], "the seeds of a search are given as search.seeds=0,1,2"),
    ([*SPACE, "seed=0,1"], "seed: is the same for all trials of a search"),
    ([*SPACE, "data.seed=0,1"], "data.seed: is the same for all trials of a search"),
    (["stage=student,distill"], "stage: is the same for all trials of a search"),
    ([], "nothing to search; give a key an interval"),
]


@pytest.mark.parametrize(("words", "said"), WRONG, ids=lambda value: str(value)[:50])
def test_a_wrong_search_is_one_line_and_leaves_nothing(cli, teacher, words, said):
    before = tree(Path("outputs"))
    result = cli(*SEARCH, *words)
    assert result.code == 1
    one_line(result.err, said)
    assert tree(Path("outputs")) == before


def test_a_search_without_a_teacher_leaves_nothing(cli):
    one_line(cli(*SMALL).err, "stage=teacher")
    assert not Path("outputs").exists()


def test_an_interval_without_the_sweeper_names_it(cli):
    one_line(cli("-m", "stage=student", RATE).err, "hydra/sweeper=search searches in it")


@pytest.mark.slow
def test_the_file_of_another_search_is_refused(cli, teacher):
    cli(*SMALL, "search.confirm=0")
    before = (OUTPUTS / "search.log").read_bytes()
    others = ["kd.T=interval(1,8)", *SMALL[6:]]
    one_line(cli(*SEARCH, *others).err, "holds another search: kd.T (tag(log,interval(1,64)) th")
    one_line(cli(*SMALL, "search.halving=2").err, "search.halving (null there, 2 here)")
    assert (OUTPUTS / "search.log").read_bytes() == before
    said = cli(*SEARCH, *others, "overwrite=true")
    assert said.code == 0, said.err
    assert all(1 <= trial.params["kd.T"] <= 8 for trial in found().trials)


def test_without_optuna_it_says_what_to_install(cli, monkeypatch):
    import sys

    module = sys.modules["hydra_plugins.search_sweeper"]
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    one_line(cli(*SMALL).err, "needs Optuna; pip install 'kd[search]'")


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.02, 0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 0.97])
def test_killed_at_any_moment_it_goes_on(tmp_path, cli, teacher, share):
    """The same proposals, decisions and weights as of a search that nobody killed."""
    words = (*SMALL, *HALVING, "search.seeds=0,1", "search.trials=9", "logger=[]")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for place in (whole, killed):
        place.mkdir()
        shutil.copytree(tmp_path / "outputs", place / "outputs")
    done = harness.command(whole, *words)
    harness.check_manners(done, 0)
    at = max(1, round(share * done.operations))
    harness.check_manners(harness.command(killed, *words, kill_at=at), -signal.SIGKILL)
    harness.check_manners(harness.command(killed, *words), 0)
    one, two = (read_search(place / "outputs/main") for place in (killed, whole))
    assert of_trials(one) == of_trials(two)
    harness.assert_same(killed, whole)
