"""The kinds of trials but for settings: each takes a random generator and an empty folder.

A trial raises AssertionError where the project does not keep a promise; ``docs/trust.md`` has them.
"""

import random
import re
import shutil
import signal
from pathlib import Path

import yaml

from kd.config.schema import flatten
from kd.files import PROJECT

from .harness import (
    Said,
    assert_same,
    at_once,
    check_manners,
    command,
    metrics,
    names,
    page,
    predictions,
    prepared,
    runs,
    weights,
)

M = ("data=mnist_mini", "data.dir=digits", "trainer.max_epochs=2")
COMMANDS = {
    "student": ("stage=student", *M),
    "teachers": ("-m", "stage=teacher", "seed=2,3", *M),
    "alone": ("-m", "stage=distill", "hydra/launcher=basic", "kd.T=1,3", *M),
    "group": ("-m", "stage=distill", "kd.T=1,2", "kd.alpha=0,0.5,1", "seed=0,1", *M),
    "groups": ("-m", "stage=student", "seed=range(0,9)", "trainer.group_mb=4", *M),
    "search": (
        *("-m", "hydra/sweeper=search", "stage=distill", *M[:2], "trainer.max_epochs=4"),
        *("kd.T=tag(log,interval(1,64))", "kd.alpha=interval(0,1)", "search.halving=2"),
        *("search.trials=9", "search.batch=5", "search.seeds=0,1", "search.confirm=2"),
    ),
    "report": ("stage=report",),
}
STUDY = [
    ("-m", "stage=student", "seed=0,1", *M),
    ("-m", "stage=distill", "kd.T=1,3", "seed=0,1", *M),
    ("stage=report",),
    ("stage=distill", "kd.T=5", *M),
]


def teachers(root: Path) -> Path:
    """The digits and two complete teachers."""

    def make(folder: Path) -> None:
        shutil.copytree(PROJECT / "tests/mnist_mini", folder / "digits")
        check_manners(command(folder, "-m", "stage=teacher", "seed=0,1", *M), 0)

    return prepared(root, "teachers", make)


def study(root: Path) -> Path:
    """The same with students, a report, and a run that is not in the report yet."""

    def make(folder: Path) -> None:
        shutil.copytree(teachers(root), folder, dirs_exist_ok=True)
        for words in STUDY:
            check_manners(command(folder, *words), 0)

    return prepared(root, "study", make)


def undisturbed(root: Path, name: str, begin: Path, *commands: tuple[str, ...]) -> tuple[Path, int]:
    """What commands lead to from the files of ``begin``, and their operations on files."""

    def make(folder: Path) -> None:
        shutil.copytree(begin, folder, dirs_exist_ok=True)
        said = [command(folder, *words) for words in commands]
        for number, each in enumerate(said):
            check_manners(each, 1 if number and name == "race_settings" else 0)
        if name == "groups":
            assert said[0].out.count("train together") >= 2, "is to split into several groups"
        (folder / "operations").write_text(str(sum(each.operations for each in said)))

    done = prepared(root, f"done_{name}", make)
    return done, int((done / "operations").read_text())


def begin_of(root: Path, name: str) -> Path:
    """The folder that a command of ``COMMANDS`` begins with."""
    return study(root) if name == "report" else teachers(root)


def kill(name: str, rng: random.Random, folder: Path) -> None:
    """A command killed at any operation on its files, once or twice, is simply given again."""
    begin = begin_of(folder.parent, name)
    done, operations = undisturbed(folder.parent, name, begin, COMMANDS[name])
    shutil.copytree(begin, folder, dirs_exist_ok=True)
    for _ in range(rng.choice((1, 1, 2))):
        said = command(folder, *COMMANDS[name], kill_at=rng.randint(1, operations))
        check_manners(said, 0, -signal.SIGKILL)
        check_page(name, folder, begin, done)
    again(name, folder, done)


def full_disk(name: str, rng: random.Random, folder: Path) -> None:
    """A command that finds no room says so in a line, and continues once there is room."""
    begin = begin_of(folder.parent, name)
    done, _ = undisturbed(folder.parent, name, begin, COMMANDS[name])
    shutil.copytree(begin, folder, dirs_exist_ok=True)
    said = command(folder, *COMMANDS[name], largest=round(2 ** rng.uniform(5, 18)))
    check_manners(said)
    check_page(name, folder, begin, done)
    again(name, folder, done)


def check_page(name: str, folder: Path, begin: Path, done: Path) -> None:
    """The report is the old or the new one, and never half of one, nor none."""
    if name == "report":
        assert page(folder) in (page(begin), page(done)), "the page is neither the old nor the new"


def again(name: str, folder: Path, done: Path) -> None:
    """The same command, undisturbed, leads to where it would have led at once."""
    check_manners(command(folder, *COMMANDS[name]), 0)
    assert_same(folder, done)
    assert page(folder) == page(done), "another page"


def damage(rng: random.Random, path: Path) -> str:
    """Flip a bit of a file, cut off its end, or fill a part with zeros; what was done."""
    before = path.read_bytes()
    after = bytearray(before)
    while after == before:
        place = rng.randrange(len(before))
        how = rng.choice(("flip", "flip", "cut", "zero"))
        if how == "flip":
            after[place] ^= 1 << rng.randrange(8)
        elif how == "cut":
            del after[place:]
        else:
            end = min(len(before), place + rng.choice((1, 64, 4096)))
            after[place:end] = bytes(end - place)
    path.write_bytes(after)
    return f"{how} at byte {place} of {path.name}"


def pick(rng: random.Random, folder: Path, pattern: str) -> Path:
    """One file of a kind, not an empty one."""
    found = sorted(path for path in folder.glob(pattern) if path.is_file() and path.stat().st_size)
    assert found, f"no {pattern}"
    return rng.choice(found)


def flip_checkpoint(rng: random.Random, folder: Path) -> None:
    """A damaged teacher is refused, or was damaged where nothing is read."""
    begin = study(folder.parent)
    stage = rng.choice(("teacher", "student"))
    path = next((begin / f"outputs/main/{stage}").glob("seed=0*/model.ckpt")).relative_to(begin)
    given = {"teacher": (), "student": (f'teacher.checkpoint="{path}"',)}[stage]
    sweep = rng.random() < 0.5
    words = ("-m", "kd.T=7,8") if sweep else ("kd.T=7",)
    words = (*words, "stage=distill", *given, *M)
    done, _ = undisturbed(folder.parent, f"taught_by_{stage}_{sweep}", begin, words)
    shutil.copytree(begin, folder, dirs_exist_ok=True)
    what = damage(rng, folder / path)
    said = command(folder, *words)
    check_manners(said)
    if said.code == 0:
        try:
            for name in runs(done).keys() - runs(begin).keys():
                assert metrics(runs(folder)[name]) == metrics(runs(done)[name])
        except AssertionError as error:
            raise AssertionError(f"a damaged teacher taught: {what}") from error
    else:
        assert runs(folder).keys() == runs(begin).keys(), what


def flip_predictions(rng: random.Random, folder: Path) -> None:
    """A report names the run whose predictions are damaged, or is the same as without."""
    begin = study(folder.parent)
    done, _ = undisturbed(folder.parent, "report", begin, COMMANDS["report"])
    shutil.copytree(begin, folder, dirs_exist_ok=True)
    path = pick(rng, folder, "outputs/*/*/*/predictions.npz")
    what = damage(rng, path)
    said = command(folder, "stage=report")
    check_manners(said, 0)
    assert page(folder) == page(done) or path.parent.name in said.out + said.err, f"unsaid: {what}"


def flip_small(pattern: str, rng: random.Random, folder: Path) -> None:
    """Whatever stands in a run's other files, a report is written and a command answers."""
    shutil.copytree(study(folder.parent), folder, dirs_exist_ok=True)
    what = damage(rng, pick(rng, folder, f"outputs/*/{pattern}"))
    shutil.rmtree(folder / "outputs/main/report")
    said = command(folder, "stage=report")
    check_manners(said, 0)
    assert page(folder), f"no report: {what}"
    check_manners(command(folder, *STUDY[rng.randrange(2)]))


def flip_table(rng: random.Random, folder: Path) -> None:
    """``results.csv`` is rebuilt from the runs."""
    begin = study(folder.parent)
    shutil.copytree(begin, folder, dirs_exist_ok=True)
    table = folder / "outputs/main/results.csv"
    damage(rng, table)
    check_manners(command(folder, *rng.choice(STUDY[:3])), 0)
    assert table.read_bytes() == (begin / "outputs/main/results.csv").read_bytes()


def flip_group(rng: random.Random, folder: Path) -> None:
    """A sweep whose unfinished group is damaged ends as an undisturbed one."""
    root = folder.parent
    done, operations = undisturbed(root, "group", teachers(root), COMMANDS["group"])

    def make(half: Path) -> None:
        shutil.copytree(teachers(root), half, dirs_exist_ok=True)
        command(half, *COMMANDS["group"], kill_at=operations // 2)

    shutil.copytree(prepared(root, "unfinished", make), folder, dirs_exist_ok=True)
    damage(rng, pick(rng, folder, "outputs/main/unfinished/**/*"))
    again("group", folder, done)


def flip_data(rng: random.Random, folder: Path) -> None:
    """A complete run is not passed off as one of other images."""
    shutil.copytree(study(folder.parent), folder, dirs_exist_ok=True)
    what = damage(rng, pick(rng, folder, "digits/MNIST/raw/*"))
    said = command(folder, *rng.choice((COMMANDS["student"], STUDY[0], STUDY[1])))
    check_manners(said)
    assert said.code == 1, f"passed over: {what}"


SWEEP = ("-m", "stage=distill", "kd.T=2,4", "seed=0,1", *M)
TALK = ("stage=student", "+experiment=talk", "study=main", *M)  # the folder of COMMANDS["student"]
PAIRS = {
    "student": (COMMANDS["student"], COMMANDS["student"]),
    "sweep": (SWEEP, SWEEP),
    "overlap": (SWEEP, ("-m", "stage=distill", "kd.T=4,6", "seed=0,1", *M)),
    "alone": (COMMANDS["alone"], COMMANDS["alone"]),
    "settings": (COMMANDS["student"], TALK),
    "reports": (COMMANDS["report"], COMMANDS["report"]),
    "sweep_report": (SWEEP, COMMANDS["report"]),
}


def race(name: str, rng: random.Random, folder: Path) -> None:
    """Two commands at once do not harm each other, and given again they are complete."""
    begin = study(folder.parent) if "report" in name else teachers(folder.parent)
    distinct = dict.fromkeys(PAIRS[name])
    done, _ = undisturbed(folder.parent, f"race_{name}", begin, *distinct)
    shutil.copytree(begin, folder, dirs_exist_ok=True)
    all_said = at_once(folder, *PAIRS[name], pause=rng.choice((0, 0, rng.uniform(0, 1))))
    for said in all_said:
        check_manners(said)
        assert said.code == 0 or names_another(said, done), f"names nothing: {said.err}"
    check_consistency(folder)
    codes = [command(folder, *words).code for words in distinct]
    assert sorted(codes) == ([0, 1] if name == "settings" else [0] * len(codes)), f"again: {codes}"
    check_consistency(folder)
    assert names(folder) == names(done), f"files: {sorted(names(folder) ^ names(done))}"
    assert runs(folder).keys() == runs(done).keys()


def names_another(said: Said, done: Path) -> bool:
    """Whether a message names a run or another process."""
    folders = [run.name for run in runs(done).values()]
    return bool(re.search("another|process", said.err)) or any(n in said.err for n in folders)


def check_consistency(folder: Path) -> None:
    """All files of a run are of one run.

    Raises:
        AssertionError: they are not.
    """
    for name, run in runs(folder).items():
        said = metrics(run)
        config = flatten(yaml.safe_load((run / ".hydra/config.yaml").read_text()))
        for key, value in config.items():
            tag = key.replace(".", "/")
            if tag in said and said[tag] is not None and tag != "teacher/checkpoint":
                value = str(value) if isinstance(value, list) else value
                assert said[tag] == value, f"{name}: {key} is {value} and {said[tag]}"
        arrays = predictions(run)
        accuracy = float((arrays["logits"].argmax(1) == arrays["labels"]).mean())
        assert abs(accuracy - said["test/acc"]) < 1e-6, f"{name}: predictions of another run"
        assert weights(run)
