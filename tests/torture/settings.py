"""Every setting swept together and one by one, and wrong commands from a grammar."""

import dataclasses
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from kd.config.schema import Config, Export, Search, Store, flatten
from kd.methods import METHODS
from kd.methods.base import Distillation
from kd.models import MODELS

from .harness import check_manners, command, metrics, predictions, runs
from .trials import M, teachers

NO_RESULT = "says where or how, and no result depends on it"
NOT_SWEPT = {
    "study": NO_RESULT,
    "output_dir": NO_RESULT,
    "overwrite": NO_RESULT,
    "keep_epochs": NO_RESULT,
    "open": NO_RESULT,
    "trust_code": NO_RESULT,
    "logger": NO_RESULT,
    "tags": NO_RESULT,
    "print_config": NO_RESULT,
    "callbacks": "they keep runs out of groups",
    **dict.fromkeys((f"export.{f.name}" for f in dataclasses.fields(Export)), NO_RESULT),
    **dict.fromkeys((f"store.{f.name}" for f in dataclasses.fields(Store)), NO_RESULT),
    "trainer.group_mb": NO_RESULT,
    "trainer.stack": NO_RESULT,
    "data.files": NO_RESULT,
    **{f"search.{spec.name}": "no run knows of a search" for spec in dataclasses.fields(Search)},
    "data.dir": "other images are another study",
    "data.dataset": "the small digits are all there is without a network",
    "data.source": "the small digits are neither verified nor to be downloaded",
    "trainer.accelerator": "there may be no GPU",
    "data.file": "other images are another study",
    "data.size": "the small digits have one",
    **{
        f"{key}.{name}": "see tests/integration/test_own_network.py, which has such a network"
        for key in ("model", "teacher.model")
        for name in ("target", "args", "hidden_layer", "map_layers")
    },
}

# key: two values, and what else the command needs. Without a stage the students are distilled.
ALONE = "stage=student"  # another split has another teacher
RESNET = "model=resnet8", "optim=sgd", "optim.lr=0.001"
SWEPT: dict[str, tuple[str, ...]] = {
    "stage": ("student,distill",),
    "seed": ("0,5",),
    "checkpoint": ("last,best", "trainer.max_epochs=6", "optim.lr=0.1"),
    "data.split": ("official,pooled", ALONE),
    "data.val_size": ("200,100", ALONE),
    "data.test_size": ("200,150", ALONE, "data.split=pooled"),
    "data.seed": ("0,1", ALONE),
    "data.batch_size": ("32,48",),
    "data.train_size": ("null,300",),
    "data.unlabelled": ("false,true", "data.train_size=300"),
    "data.label_noise": ("0,0.3",),
    "data.omit": ("[3],[4,5]", "data.train_size=300"),
    "data.views": ("none,shift2",),
    "data.centre": ("false,true",),
    "data.augment.shift": ("0,2",),
    "data.augment.rotate": ("0,20",),
    "data.augment.mixup": ("0,0.5",),
    "data.augment.extra": ("0,1", "data.augment.shift=2"),
    "model.name": ("mlp,cnn",),
    "model.hidden": ("16,24",),
    "model.dropout": ("0,0.3",),
    "model.lr": ("0.005,0.02",),
    "model.channels": ("[4],[4,8]", "model=cnn"),
    # Adam makes steps of full length of batch norm's gradients that are rounding alone.
    "model.width": ("2,4", *RESNET),
    "model.init": ("module,glorot", *RESNET, "model.width=2"),
    "kd.method": ("hinton,dkd",),
    "kd.T": ("1,3",),
    "kd.alpha": ("0.25,1",),
    "kd.warmup_epochs": ("0,2",),
    "kd.stop_epoch": ("null,1",),
    "kd.direction": ("forward,reverse",),
    "optim.name": ("adam,sgd",),
    "optim.lr": ("0.004,0.02",),
    "optim.schedule": ("cosine,onecycle",),
    "optim.betas": ("[0.9,0.999],[0.5,0.9]",),
    "optim.eps": ("1e-8,1e-3",),
    "optim.weight_decay": ("0,0.1", "optim=adamw"),
    "optim.momentum": ("0.5,0.9", "optim=sgd"),
    "optim.label_smoothing": ("0,0.2",),
    "trainer.max_epochs": ("1,2",),
    "trainer.limit_batches": ("5,20",),
    "trainer.patience": ("null,1", "trainer.max_epochs=15", "optim.lr=0.1"),
    "trainer.precision": ("32,bf16",),
    "teacher.seed": ("0,1",),
    "teacher.control": ("permuted,confidence",),
    "teacher.clip": ("null,1",),
    "teacher.checkpoint": ("one.ckpt,two.ckpt",),
}
GROUPS = {"kd.method": "kd", "model.name": "model"}
# What students of a group have in common, so that its two values make two groups or none.
APART = {
    *("data.split", "data.val_size", "data.test_size", "data.seed", "data.batch_size"),
    *("data.train_size", "data.unlabelled", "data.views", "data.centre"),
    *("optim.name", "trainer.limit_batches"),
    *("trainer.precision", "model.name", "model.channels", "model.width", "model.init"),
    *(f"data.augment.{name}" for name in ("shift", "rotate", "mixup", "extra")),
}
METHOD_WORDS = {"at": ("model=cnn", "model.channels=[4,8]")}
# Where both values may give the same: kd.T plays no part in some methods.
MAY_AGREE = {"kd.T", "checkpoint"}
ROUNDING = 1e-4  # of the logits, relative to their norm, after two epochs
FIGURES = ("train/", "val/", "test/", "fidelity/")  # as metrics.json has them, beside settings


def two_values(field: dataclasses.Field) -> tuple[Any, Any]:
    """Two values of a method's setting: those of ``SWEPT``, or its default and another one."""
    key, default, check = f"kd.{field.name}", field.default, field.metadata.get("check")
    if key in SWEPT:
        first, second = map(yaml.safe_load, parts(SWEPT[key][0]))
        return (float(first), float(second)) if isinstance(default, float) else (first, second)
    others: tuple[Any, ...] = (not default,)
    if isinstance(default, str):
        others = tuple(re.findall(r"\w+", field.metadata["allowed"]))
    elif default is None:
        others = (1, 0.5)
    elif not isinstance(default, bool):
        others = (default // 2, default + 1) if isinstance(default, int) else (default / 2, 1.0)
    return default, next(v for v in others if v != default and (check is None or check(v)))


class Case(NamedTuple):
    """A setting to sweep."""

    key: str
    values: str  # two of them
    words: tuple[str, ...]  # what else the command needs


def cases() -> list[Case]:
    """Every setting of the schema; those of kd for every method that has them.

    Raises:
        AssertionError: a key of the schema has no entry here, or an entry is of no key.
    """
    found, known = [], set()
    for model in MODELS.values():
        known |= flatten(Config(model=model())).keys()
    own = {f"kd.{f.name}" for m in METHODS.values() for f in dataclasses.fields(m)}
    known |= {f"kd.{field.name}" for field in dataclasses.fields(Distillation)}
    told = SWEPT.keys() | NOT_SWEPT.keys()
    assert known <= told <= known | own, f"say in {__file__} how to sweep {sorted(known - told)}"
    for key, (values, *words) in SWEPT.items():
        if not key.startswith("kd.") or key in GROUPS:
            found.append(Case(key, values, tuple(words)))
    for name, method in METHODS.items():
        for field in dataclasses.fields(method):
            key = f"kd.{field.name}"
            if key in GROUPS:
                continue
            values = ",".join(map(str, two_values(field))) if key not in SWEPT else SWEPT[key][0]
            found.append(Case(key, values, (f"kd={name}", *METHOD_WORDS.get(name, ()))))
    random.Random("cases").shuffle(found)
    return found


def sweep(rng: random.Random, folder: Path) -> None:
    """Students that train together are those that train alone, whatever is swept."""
    everything = cases()

    def run(place: Path, *words: str) -> str:
        said = command(place, *words)
        check_manners(said, 0)
        return said.out

    case = everything[rng.number % len(everything)]
    together_as_alone(case, folder, teachers(folder.parent), run)


def together_as_alone(case: Case, folder: Path, taught: Path, run: Callable[..., str]) -> None:
    """Sweep a setting in a group and one run after another, and compare what they leave.

    Args:
        case: one of :func:`cases`.
        folder: where to do so.
        taught: a folder with the digits and two teachers; see :func:`trials.teachers`.
        run: takes a working folder and a command's words, runs that, and gives what it said.

    Raises:
        AssertionError: logits or metrics differ by more than rounding, or students that differ in
            settings of their own alone do not train together.
    """
    words, said = words_of(case), " ".join(words_of(case))
    both = folder / "together", folder / "alone"
    for place, launcher in zip(both, ([], ["hydra/launcher=basic"]), strict=True):
        shutil.copytree(taught, place)
        for path, seed in (("one.ckpt", 0), ("two.ckpt", 1)):
            (teacher,) = (place / "outputs/main/teacher").glob(f"seed={seed},*")
            shutil.copy(teacher / "model.ckpt", place / path)
        console = run(place, *words, *launcher)
        if not launcher and case.key not in APART and "model=cnn" not in words:
            groups = re.findall(r"\d+ students train together", console)
            assert len(groups) == 1, f"{said}: {groups}"
            assert "train alone" not in console, f"{said}: {console}"
    mine, its = ({n: r for n, r in runs(place).items() if "/teacher/" not in n} for place in both)
    assert mine.keys() == its.keys(), said
    tag, logits, apart = case.key.replace(".", "/"), {}, {}
    for name, one in mine.items():
        value, seed = plain(metrics(one)[tag]), metrics(one)["seed"]
        apart.setdefault(value, []).append(compare(one, its[name], f"{said}: {name}"))
        logits.setdefault(value, {})[seed] = predictions(one)["logits"]
    # Where a ReLU's input is 0 up to rounding, a seed's trainings part; not those of both seeds.
    for value, distances in apart.items():
        assert min(distances) < ROUNDING, f"{said}: logits of {value} differ by {distances}"
    expected = [plain(yaml.safe_load(value)) for value in parts(case.values)]
    assert set(logits) == set(expected), f"{said}: metrics.json says {set(logits)}"
    if case.key not in MAY_AGREE | {"seed", "data.split", "data.test_size"}:
        first, second = (logits[value][0] for value in expected)
        assert not np.allclose(first, second, rtol=1e-3), f"{said}: {case.key} changes nothing"


def words_of(case: Case) -> list[str]:
    """The command that sweeps a setting."""
    told = {word.split("=")[0] for word in case.words} | {case.key}
    given = [word for word in M if word.split("=")[0] not in told]
    stage = [] if "stage" in told else ["stage=distill"]
    seeds = [] if case.key == "seed" else ["seed=0,1"]
    swept = f"{GROUPS.get(case.key, case.key)}={case.values}"
    return ["-m", *stage, *given, *case.words, swept, *seeds]


def compare(one: Path, other: Path, said: str) -> float:
    """See that two runs' metrics agree; how far their logits are apart.

    Raises:
        AssertionError: a setting differs, or a figure by more than trainings do that part a little.
    """
    mine, its = metrics(one), metrics(other)
    assert mine.keys() == its.keys(), said
    ours, theirs = (predictions(run)["logits"] for run in (one, other))
    apart = float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
    assert apart < 0.1, f"{said}: logits differ by {apart}"
    rel, most = (1e-3, 5e-3) if apart < ROUNDING else (5e-2, 5e-2)
    for key, value in mine.items():
        figure = key.startswith(FIGURES)
        near = abs(value - its[key]) <= rel * abs(its[key]) + most if figure else value == its[key]
        assert near, f"{said}: {key} is {value} together and {its[key]} alone"
    return apart


def parts(values: str) -> list[str]:
    """The two values of a sweep; lists have commas of their own."""
    return values.replace("],", "]|").split("|") if "]" in values else values.split(",")


def plain(value: object) -> object:
    """A value as metrics.json and the command line have it alike."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(value)


NUMBERS = ("0", "-1", "0.5", "1e309", "nan", "-inf", "1e38", "2147483648", "9" * 30, "9" * 5000)
TEXTS = (
    "", "\n", "a\nb", "a b", "\x1b[31m", "\udcff", "[" * 50 + "]" * 50, "{a:" * 50 + "1" + "}" * 50,
    "null", "true", "x", "größe", "𝔄", "'", '"', "\\", "..", "../x", "[", "]", "[]", "[1,2]",
    "[a,b]", "[[1]]", "{", "}", "{}", "{a:1}", "(", ")", "1,2", "~", "+", "${", "${seed}",
    "${run_subdir:}", "${kd.T}", "${oc.env:HOME}", "${nope:}", "range(0,3,0)", "range(1,0)",
    "glob(*)", "choice()", "choice(1,2)", "interval(0,1)", "sort(3,1)", "shuffle(1,2)", "tag(a,1)",
    "int(x)", ",", "=", "a=b", "???", "%", "#",
)  # fmt: skip
FLAGS = (
    "-m", "--multirun", "--help", "--hydra-help", "--version", "--cfg", "--cfg=job", "--cfg=all",
    "--resolve", "--info", "--info=searchpath", "--package=x", "--shell-completion", "-sc",
    "--experimental-rerun=x", "--config-path=x", "--config-name=x", "--config-dir=x", "--nonsense",
    "-x", "--", "-",
)  # fmt: skip
HYDRA = (
    "hydra", "hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir",
    "hydra.sweeper.max_batch_size", "hydra.sweeper.params", "hydra.sweeper._target_",
    "hydra.launcher._target_", "hydra.output_subdir", "hydra/launcher", "hydra/sweeper",
    "hydra.job.chdir", "hydra.job.name", "hydra.verbose",
)  # fmt: skip
# What the network, a long training or a folder elsewhere would answer is left out.
NEVER = ("output_dir", "data.source", "data.dataset", "data.dir", "trainer.max_epochs")


def word(rng: random.Random, keys: list[str]) -> str:
    """One word: a flag, or KEY=VALUE with something wrong about it."""
    if rng.random() < 0.15:
        return rng.choice(FLAGS)
    key = rng.choice(keys)
    if rng.random() < 0.3:  # a typo
        place = rng.randrange(len(key))
        key = key[:place] + rng.choice(("", "x", ".", "/", "é", key[place] * 2)) + key[place + 1 :]
    sign = rng.choice(("",) * 8 + ("+", "++", "~", "+++"))
    value = rng.choice(NUMBERS if rng.random() < 0.4 else TEXTS)
    if rng.random() < 0.1:
        value += rng.choice(TEXTS)
    equals = rng.choice(("=",) * 12 + ("", "==", " = "))
    return f"{sign}{key}{equals}{value}"


def wrong(rng: random.Random, folder: Path) -> None:
    """Whatever is typed, the answer is short, no traceback, and a refusal leaves nothing behind."""
    keys = sorted({key for key, _, _ in cases()} | NOT_SWEPT.keys())
    keys = [key for key in keys if key not in NEVER] + list(HYDRA)
    keys += [
        "stage",
        "kd",
        "model",
        "optim",
        "experiment",
        "+experiment",
        "trainer",
        "data",
        "debug",
    ]
    words = [word(rng, keys) for _ in range(rng.choice((1, 1, 2, 3)))]
    usual = ["stage=student", "data=mnist_mini", "trainer.max_epochs=1"]
    if rng.random() < 0.3:
        usual.insert(0, "-m")
    words = [w for w in words if not any(w.lstrip("+~").startswith(f"{key}=") for key in NEVER)]
    said = command(folder, *usual, *words)
    shown = f"{[each[:200] for each in words]}: "
    try:
        check_manners(said, 0, 1, 2)
    except AssertionError as error:
        raise AssertionError(f"{shown}{error}") from error
    if said.code == 2:
        assert "usage:" in said.err, f"{shown}{said.err[-1000:]}"
    if said.code:
        # A run that began and then failed has a log that says why.
        begun = {path.parent for path in folder.rglob("train.log")}
        allowed = {parent for run in begun for parent in (run, *run.parents)}
        left = [path for path in folder.rglob("*") if ".locks" not in path.parts]
        left = [p for p in left if p not in allowed and not any(b in p.parents for b in begun)]
        assert not left, f"{shown}left behind: {[str(path.relative_to(folder)) for path in left]}"
