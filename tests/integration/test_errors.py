"""Wrong commands: one line that helps, status 1, no traceback, and all that was there intact."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import DIGITS, MINI, one_line, tree

from kd.config.command_line import check
from kd.files import PROJECT
from kd.training.checkpoint import content_digest

DISTILL = ("stage=distill", *MINI)

# (name, what is wrong, what the one line must say)
TYPOS = [
    ("unknown stage", ["stage=train"], "stage=train: no such choice; choose from distill"),
    (
        "unknown method",
        [*DISTILL, "kd=hintom"],
        "kd=hintom: no such choice; choose from at, cc, cosine, dist, dkd, dtkd, function",
    ),
    (
        "unknown model",
        [*DISTILL, "model=vgg"],
        "model=vgg: no such choice; choose from cnn, custom, mlp, resnet8",
    ),
    ("unknown data", ["data=cifar"], "data=cifar: no such choice"),
    ("unknown experiment", ["+experiment=tlak"], "experiment=tlak: no such choice"),
    ("unknown trainer", ["trainer=tpu"], "trainer=tpu: no such choice; choose from auto, cpu, gpu"),
    ("experiment without plus", ["experiment=talk"], "with a plus, as in +experiment"),
    ("mistyped key", [*DISTILL, "kd.TT=3"], "kd.TT: no such key; did you mean kd.T?"),
    (
        "a synonym in its group",
        ["kd.temperature=3"],
        "kd.temperature: no such key; did you mean kd.T?",
    ),
    ("a last word", ["T=4"], "T: no such key; did you mean kd.T?"),
    ("a rate", ["lr=1"], "lr: no such key; did you mean optim.lr?"),
    ("epochs", ["epochs=1"], "epochs: no such key; did you mean trainer.max_epochs?"),
    ("a size", ["batch_size=1"], "batch_size: no such key; did you mean data.batch_size?"),
    ("mistyped group", ["stag=teacher"], "stag: no such key; did you mean stage?"),
    (
        "key of another model",
        ["stage=student", "model.channels=[4]"],
        "model.channels: no such key",
    ),
    ("added key", [*DISTILL, "+kd.beta=2"], "kd.beta: no such key"),
    ("forced key", [*DISTILL, "++nothing=2"], "nothing: no such key"),
    ("removed key", [*DISTILL, "~kd.alpha"], "kd.alpha: missing"),
    ("no value", ["stage"], "stage: cannot be read as KEY=VALUE"),
    ("open bracket", [*DISTILL, "kd.T=[1"], "cannot be read"),
    ("sweep without -m", [*DISTILL, "kd.T=1,2"], "add -m"),
    ("a group as a number", ["data=3"], "data=mnist"),
    ("zero temperature", [*DISTILL, "kd.T=0"], "kd.T=0: must be a number above 0"),
    ("infinite temperature", [*DISTILL, "kd.T=inf"], "kd.T=inf: must be a number above 0"),
    ("word for a number", [*DISTILL, "kd.T=warm"], "kd.T=warm: must be a number above 0"),
    ("alpha above 1", [*DISTILL, "kd.alpha=1.5"], "kd.alpha=1.5: must be a number from 0 to 1"),
    ("negative batch", ["data.batch_size=-1"], "data.batch_size=-1: must be a whole number from 1"),
    ("negative seed", ["seed=-1"], "seed=-1: must be a whole number"),
    ("half an epoch", ["trainer.max_epochs=0.5"], "trainer.max_epochs=0.5: must be a whole number"),
    ("dropout of all", ["model.dropout=1"], "model.dropout=1: must be a number from 0 to below 1"),
    ("unknown split", ["data.split=thirds"], "data.split=thirds: must be official or pooled"),
    ("unknown epoch", ["checkpoint=first"], "checkpoint=first: must be last or best"),
    ("path as a study", ["study=../x"], "study=../x: must be a name"),
    ("wrong value in a sweep", ["-m", *DISTILL, "kd.T=1,0"], "kd.T=0: must be a number above 0"),
    ("wrong group in a sweep", ["-m", *DISTILL, "kd=hinton,dkb"], "kd=dkb: no such choice"),
]


STUDY = "must be a name of 1 to 100 of the characters A-Z, a-z, 0-9, '.', '_' and '-'"
PRINTED = "without line breaks or other control characters"
NOT_RELEVANT = "output_dir=FOLDER and study=NAME say where runs lie"
CODE = "would run code by its name"
HYDRA = "not to be set here"
GROUP = "it is the name of a file in conf/experiment"
BRIEF = f"stage=student {' '.join(MINI)}"
BATCHES = "hydra.sweeper.max_batch_size"

# (words, what the one line must say): of what Hydra would do by itself, and of odd values
ODD = [
    *((f"{plus}hydra.run.dir=v", NOT_RELEVANT) for plus in ("", "+", "++", "~")),
    *((f"{plus}hydra.run={{dir:v}}", NOT_RELEVANT) for plus in ("", "+", "++")),
    *((f"{word}", NOT_RELEVANT) for word in ("hydra={run:{dir:v}}", "+hydra={sweep:{dir:v}}")),
    *((f"-m hydra.sweep.{key}=v", NOT_RELEVANT) for key in ("dir", "subdir")),
    ("-m hydra.sweep={dir:v}", NOT_RELEVANT),
    ("+data@hydra.run=mnist", "data@hydra.run: a choice has its place"),
    ("hydra.output_subdir=v", "hydra.output_subdir: not to be set here"),
    ("hydra.job.chdir=true", "hydra.job.chdir: not to be set here"),
    ("hydra.job={chdir:true}", "hydra.job.chdir: not to be set here"),
    ("hydra.runtime.output_dir=v", HYDRA),
    ("hydra.job_logging.handlers.file.filename=v", HYDRA),
    ("hydra.searchpath=[pkg://antigravity]", "hydra.searchpath: not to be set here: choices come"),
    *(
        (f"{plus}hydra.{node}._target_=os.mkdir", f"hydra.{node}._target_: {CODE}")
        for plus in ("", "+", "++")
        for node in ("launcher", "sweeper", "callbacks.x", "job_logging.x")
    ),
    ("-m hydra.launcher={_target_:os.mkdir}", CODE),
    ("-m +hydra.launcher.x=[{_target_:os.mkdir}]", CODE),
    ("-m hydra.launcher={n:1},{_target_:os.mkdir}", CODE),
    *(
        (f"-m +hydra.launcher.x={value}", "takes a plain value")
        for value in ("${y}", "[${y}]", "1,'${y}'", "{z:${y}}")
    ),
    ("hydra.launcher=null", HYDRA),
    ("~hydra.launcher", HYDRA),
    ("~stage=9", "a group takes the name of one of its choices"),
    ("~kd=1.5", "a group takes the name of one of its choices"),
    ("+x._target_=os.mkdir", "x: no such key"),
    ("+model._target_=os.mkdir", "model._target_: no such key"),
    ("-m +hydra.sweeper.params={hydra.run.dir:v}", "give the values by themselves"),
    ("-m hydra.sweeper.params=3", "hydra.sweeper.params: not to be set here"),
    *((f"-m seed=1,2 {BATCHES}={n}", f"{BATCHES}={n}: must be null or") for n in (0, -1, "x")),
    ("hydra.mode=FOO", "hydra.mode=FOO: must be RUN or MULTIRUN"),
    ("hydra.verbose=3", "hydra.verbose=3: must be true"),
    ("hydra.sweeper.nothing=3", "hydra.sweeper.nothing: no such key"),
    ("+experiment=../../tests/evil", GROUP),
    ("+experiment=/etc/evil", GROUP),
    ("+experiment=[talk,../evil]", GROUP),
    ("-m +experiment=talk,../evil", GROUP),
    ("-m +experiment=[talk],[../evil]", GROUP),
    ("hydra/launcher=nothing", "hydra/launcher=nothing: no such choice; choose from basic"),
    ("--experimental-rerun x", "--experimental-rerun: not available here"),
    ("--config-path x", "--config-path: not available here: choices come from conf/"),
    ("--config-name x", "--config-name: not available here: choices come from conf/"),
    ("-cd x", "--config-dir: not available here: choices come from conf/"),
    ("--config-dir", "--config-dir/-cd: expected one argument"),
    ("--bogus", "unrecognized arguments: --bogus"),
    ("--resolve", "--resolve: goes with --cfg job"),
    ("--shell-completion", "--shell-completion: goes with install=SHELL"),
    ("--shell-completion query=bash", "--shell-completion: goes with install=SHELL"),
    ("--cfg job -m", "--multirun/-m: not allowed with argument --cfg"),
    ("stage=[a,b]", "stage=[a,b]: takes one choice; to sweep: -m stage=a,b"),
    ("=3", "is no KEY=VALUE"),
    ("model.hidden=1000000000", "model.hidden=1000000000: must be a whole number from 1 to 100000"),
    ("data.batch_size=1000001", "data.batch_size=1000001: must be a whole number from 1 to"),
    ("trainer.max_epochs=1000001", "trainer.max_epochs=1000001: must be a whole number from 1 to"),
    ("data.val_size=1000001", "data.val_size=1000001: must be a whole number from 1 to"),
    ("model=cnn model.channels=[10001]", "model.channels=[10001]: must be"),
    ("optim=lion", "optim=lion: no such choice; choose from adam, adamw, keras, sgd"),
    ("optim.name=foo", "optim.name=foo: must be adam or adamw or sgd"),
    *(
        (f"trainer.patience={n}", f"trainer.patience={n}: must be null or a whole number from 1")
        for n in (0, -1, 1.5, "never")
    ),
    *(
        (f"trainer.precision={word}", f"trainer.precision={word}: must be 32 or bf16")
        for word in (16, 64, "half")
    ),
    ("debug=slow", "debug=slow: no such choice; choose from fast"),
    ("debug=[fast,slow]", "debug=[fast,slow]: takes one choice"),
    ("debug=../evil", "debug=../evil: no such choice; it is the name of a file in conf/debug"),
    ("debug=fast,fast", "debug=fast,fast: several values; add -m"),
    *(
        (f"trainer.limit_batches={n}", f"trainer.limit_batches={n}: must be null or a whole")
        for n in (0, -1, 0.5, "few")
    ),
    ("optim.label_smoothing=1", "optim.label_smoothing=1: must be a number from 0 to below 1"),
    ("optim.weight_decay=-1", "optim.weight_decay=-1: must be a number from 0 up"),
    ("optim=sgd optim.momentum=1", "optim.momentum=1: must be a number from 0 to below 1"),
    ("optim.momentum=0.5", "optim.momentum=0.5: is of optim=sgd; adam has averages of its own"),
    ("-m optim=adamw,sgd optim.momentum=0.5", "is of optim=sgd; adamw has averages of its own"),
    ("-m seed=range(0,3,0)", "seed=range(0,3,0): never ends"),
    ("-m kd.T=range(0,1,0.0)", "never ends"),
    ("-m kd.T=range(0,inf)", "never ends"),
    ("-m kd.T=range(0,1,nan)", "never ends"),
    ("-m kd.T=range(0,1,1e-300)", "billions of runs: more than 10000000"),
    ("-m seed=range(0,100001) kd.T=range(1,101)", "10000100 runs: more than 10000000 in one"),
    (
        "-m seed=range(0,1001) kd.T=range(1,101) hydra/launcher=basic",
        "100100 runs: more than 100000 in one sweep",
    ),
    ("-m seed=range(3,3)", "seed=range(3,3): holds no value"),
    ("-m seed=range(3,0)", "seed=range(3,0): holds no value"),
    ("-m kd=glob(zz*)", "kd=glob(zz*): holds no value"),
    ("-m seed=glob(*)", "seed=glob(*): only choices of a group can be matched"),
    ("-m seed=choice()", "seed=choice(): cannot be read"),
    ("-m seed=interval(0,1)", "seed=interval(0,1): has no end"),
    ("seed=range(0,3)", "seed=range(0,3): several values; add -m"),
    (f"seed=1{'0' * 5000}", "(5006 characters): cannot be read: the number is too long"),
    (f"seed=1{'0' * 4000}", "(4001 characters): must be a whole number from 0"),
    (f"kd.T={'[' * 10_000}{']' * 10_000}", "kd.T: brackets within brackets, 10000 deep"),
    ("kd.T=${kd.T}", "kd.T: Recursive interpolation"),
    ("kd.T=${optim.nothing}", "kd.T: Interpolation key 'optim.nothing' not found"),
    ("seed=${run_subdir:}", "seed: ${run_subdir:} is made of the settings"),
    ("study=${study_dir:}", "${study_dir:} is made of the settings"),
    ("seed=${hydra:run.dir}", "is made of the settings"),
    *((f"keep_epochs={word}", f"keep_epochs={word}: must be true or false") for word in (2, "yes")),
    ("kd.T=true", "kd.T=true: must be a number"),
    *(
        (f"{m}study={name}", f"study={name}: {STUDY}")
        for m in ("", "-m ")
        for name in ("größe", "a/b", ".a", "a" * 101)
    ),
    ("-m study=a,../x", f"study=../x: {STUDY}"),
    ("study='a\nb'", f"study=a\\nb: {STUDY}"),
    ("study=a\nb", f"study=a\\nb: {STUDY}"),
    ("study='a\n'", f"study=a\\n: {STUDY}"),
    ("output_dir='a\nb'", PRINTED),
    ("output_dir='a\0b'", PRINTED),
    ("-m output_dir=a\x1bb", PRINTED),
    ("output_dir=\udcff", PRINTED),
    ("data.dir='a\nb'", PRINTED),
    ("data.files='a\0b'", PRINTED),
    ("teacher.checkpoint='a\0b'", "teacher.checkpoint=a\\x00b: must be null, a file or a list"),
    ("teacher.checkpoint=['a\nb']", "teacher.checkpoint=[a\\nb]: must be null, a file or a list"),
    (f"output_dir={'a' * 300}", "File name too long"),
    ("-m stage=distill hydra/launcher=basic kd.T=0,1", "kd.T=0: must be a number above 0"),
    ("logger=tensorbord", "logger=tensorbord: no such choice; choose from csv, mlflow, tensorb"),
    ("logger=[csv,tb]", "logger=tb: no such choice; choose from csv, mlflow, tensorboard, wandb"),
    ("logger=[csv,../evil]", "logger=../evil: no such choice; it is the name of a file in conf/"),
    ("logger=null", "logger=null: for none give logger=[]"),
    ("callbacks=tymer", "callbacks=tymer: no such choice; choose from timer, weight_averaging"),
    ("callbacks=[timer,tymer]", "callbacks=tymer: no such choice; choose from timer, weight_av"),
    ("callbacks=null", "callbacks=null: for none give callbacks=[]"),
    ("callbacks.timer.interval=step", "callbacks=timer chooses timer"),
    ("+callbacks.x=3", "callbacks={x:3}: must be callbacks by their names, each with its _target_"),
    (f"{BRIEF} +callbacks.x._target_=nowhere.X", "callbacks=x: cannot be made: No module named"),
    (f"{BRIEF} +callbacks.x._target_=builtins.dict", "builtins.dict is no Callback of Lightning"),
    (f"{BRIEF} callbacks=timer callbacks.timer.duration=3x", "`Timer(duration='3x')` is not a va"),
    (f"{BRIEF} callbacks=timer +callbacks.timer.x=3", "unexpected keyword argument 'x'"),
    ("tags=a", "tags=a: must be a list of words of the characters"),
    ("tags=3", "tags=3: must be a list of words"),
    ("tags=['']", "tags=[]: must be a list of words"),
    ("tags=['a,b']", "tags=[a,b]: must be a list of words of the characters"),
    ("tags=[a/b]", "tags=[a/b]: must be a list of words"),
    ("tags=[[a]]", "tags=[[a]]: must be a list of words"),
    (f"tags=[{'a' * 65}]", "must be a list of words"),
    ("tags=null", "tags=null: must be a list of words"),
    ("print_config=maybe", "print_config=maybe: must be true or false"),
    ("logger=3", "a group takes the name of one of its choices"),
    ("logger=csv,tensorboard", "logger=csv,tensorboard: is not swept; for several at once give"),
    (
        "-m logger=csv,tensorboard",
        "is not swept; for several at once give logger=[tensorboard,csv]",
    ),
    ("logger.csv.name=x", "logger.csv.name: no such key of the chosen logger; logger=csv chooses"),
    ("logger.tensorboard=3", "logger={tensorboard:3}: must be loggers by their names, each with"),
    ("~logger.tensorboard._target_", "must be loggers by their names, each with its _target_"),
    (f"{BRIEF} +logger.x._target_=", "must be loggers by their names, each with its _target_"),
    (f"{BRIEF} +logger.x._target_=nowhere.X", "logger=x: cannot be made: No module named 'nowhere"),
    (f"{BRIEF} +logger.x._target_=os.nothing", "logger=x: cannot be made: "),
    (f"{BRIEF} +logger.tensorboard.dir=x", "logger=tensorboard: cannot be made: Curves.__init__()"),
    (f"{BRIEF} +logger.x._target_=builtins.dict", "logger=x: builtins.dict is no Logger of Light"),
    (
        f"-m seed=0,1 {BRIEF} +logger.x._target_=builtins.dict",
        "builtins.dict is no Logger of Light",
    ),
]
WRONG = [*TYPOS, *((f"{words[:40]!a}", words.split(" "), said) for words, said in ODD)]


@pytest.mark.parametrize(("words", "expected"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_a_wrong_setting(cli, words, expected):
    said = cli(*words)
    assert said.code == 1
    assert said.out == ""
    one_line(said.err, expected)
    assert not list(Path().iterdir()), "nothing is left behind"


def test_a_refused_sweep_leaves_an_earlier_ones_file(cli):
    folder = Path("outputs/main")
    folder.mkdir(parents=True)
    for words in (["seed=1,-1"], ["hydra/launcher=basic", "seed=-1,1"], ["kd=hinton,hintom"]):
        assert cli("-m", "stage=student", *words).code == 1
        assert not list(folder.iterdir())
    (folder / "multirun.yaml").write_text("of an earlier sweep")
    assert cli("-m", "stage=student", "seed=1,-1").code == 1
    assert tree(Path()) == {"outputs/main/multirun.yaml": b"of an earlier sweep"}


def test_a_refused_report_leaves_no_folder(cli):
    Path("mine").mkdir()
    one_line(cli("stage=report", "output_dir=mine/a/b").err, "no complete run to report")
    assert list(Path().rglob("*")) == [Path("mine")]


def test_yaml_from_elsewhere_runs_no_code(cli):
    """A file of choices may name functions that Hydra calls."""
    hydra = "hydra: {callbacks: {x: {_target_: os.mkdir, path: code_ran}}}\n"
    Path("evil.yaml").write_text(f"# @package _global_\n{hydra}")
    outside = "../" * len(PROJECT.parts) + str(Path("evil").absolute())
    for words in ([f"+experiment={outside}"], ["--config-dir=.", "+experiment=evil"]):
        assert cli("stage=report", *words).code == 1
    assert [path.name for path in Path().iterdir()] == ["evil.yaml"]


def test_hydras_harmless_flags_and_keys_go_on(cli):
    assert "seed: 3" in cli("seed=3", "--cfg", "job").out
    assert "T: 2.0" in cli("--cfg=job", "--resolve", "stage=distill").out
    for flags in (["--hydra-help"], ["--info"], ["--info", "plugins"], ["--version"], ["--run"]):
        assert check(flags) == flags
    said = cli("-m", "hydra.sweeper.max_batch_size=2", "seed=1,-1")
    one_line(said.err, "seed=-1: must be")


def no_teacher(teacher: Path) -> list[str]:
    return ["study=empty"]


def missing_checkpoint(teacher: Path) -> list[str]:
    return ["teacher.checkpoint=nowhere/model.ckpt"]


def truncated_checkpoint(teacher: Path) -> list[str]:
    path = teacher / "model.ckpt"
    path.write_bytes(path.read_bytes()[:5000])
    return []


def foreign_checkpoint(teacher: Path) -> list[str]:
    torch.save({"state_dict": {"weight": torch.zeros(2)}}, "other.ckpt")
    return ["teacher.checkpoint=other.ckpt"]


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("code_ran"),))


def malicious_checkpoint(teacher: Path) -> list[str]:
    torch.save({"format": 1, "state_dict": Evil()}, "evil.ckpt")
    return ["teacher.checkpoint=evil.ckpt"]


def teacher_of_another_architecture(teacher: Path) -> list[str]:
    content = torch.load(teacher / "model.ckpt", weights_only=True)
    content["model"]["hidden"] = 64
    torch.save(content | {"sha256": content_digest(content)}, "wide.ckpt")
    return ["teacher.checkpoint=wide.ckpt"]


def teacher_of_another_split(teacher: Path) -> list[str]:
    return ["data.seed=1"]


def teacher_of_pooled_images(teacher: Path) -> list[str]:
    return ["data.split=pooled"]


def missing_data(teacher: Path) -> list[str]:
    return ["data.dir=nowhere"]


def damaged_data(teacher: Path) -> list[str]:
    raw = Path(shutil.copytree(DIGITS, "damaged")) / "MNIST" / "raw"
    images = raw / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-50_000])
    return ["data.dir=damaged"]


def incomplete_data_folder(teacher: Path) -> list[str]:
    Path("mine").mkdir()
    return ["data.dir=fresh", "data.source=verified", "data.files=mine"]


def file_for_a_folder(teacher: Path) -> list[str]:
    Path("taken").write_text("a file")
    return ["output_dir=taken"]


def too_large_validation(teacher: Path) -> list[str]:
    return ["data.val_size=100000"]


def gpu_without_one(teacher: Path) -> list[str]:
    return ["trainer.accelerator=gpu"]


def damaged_metrics(teacher: Path) -> list[str]:
    (teacher / "metrics.json").write_text("{")
    return []


CIRCUMSTANCES = [
    (no_teacher, f"first run: python train.py stage=teacher {' '.join(MINI)} study=empty"),
    (missing_checkpoint, "nowhere/model.ckpt: no such checkpoint"),
    (truncated_checkpoint, "model.ckpt: damaged"),
    (foreign_checkpoint, "other.ckpt: not a checkpoint of this project"),
    (malicious_checkpoint, "not safe to load"),
    (teacher_of_another_architecture, "do not fit the architecture"),
    (teacher_of_another_split, "another data split"),
    (teacher_of_pooled_images, "another data split"),
    (missing_data, "data.dir=nowhere: MNIST cannot be read"),
    (damaged_data, "data.dir=damaged: MNIST cannot be read"),
    (incomplete_data_folder, "there is neither train-images-idx3-ubyte nor train-im"),
    (file_for_a_folder, "taken"),
    (too_large_validation, "data.val_size=100000: cannot be taken from 1000 images"),
    (gpu_without_one, "no GPU on this machine"),
    (damaged_metrics, "metrics.json: cannot be read"),
]


@pytest.mark.parametrize(
    ("arrange", "expected"), CIRCUMSTANCES, ids=[c[0].__name__ for c in CIRCUMSTANCES]
)
def test_circumstances(cli, teacher, arrange, expected):
    words = arrange(teacher)
    before = tree(Path())
    said = cli(*DISTILL, *words)
    assert said.code == 1
    one_line(said.err, expected)
    after = tree(Path())
    assert {name: after.get(name) for name in before} == before
    new = set(after) - set(before)
    assert all(name.endswith(("train.log", ".mnist.lock")) for name in new), new
    assert not Path("code_ran").exists()


def test_a_failed_command_can_simply_be_repeated(cli, teacher):
    """What a failure leaves (a log) does not stand in the way of the next try."""
    hidden = teacher.rename(teacher.parent / "elsewhere")
    assert cli(*DISTILL).code == 1
    hidden.rename(teacher)
    assert cli(*DISTILL).code == 0


def test_a_read_only_output_directory(tmp_path):
    """In a process of its own; skipped for root, whom permissions do not stop."""
    outputs = tmp_path / "outputs"
    outputs.mkdir(mode=0o555)
    try:
        (outputs / "probe").touch()
    except PermissionError:
        pass
    else:
        pytest.skip("this user may write anywhere")
    done = subprocess.run(
        [sys.executable, str(PROJECT / "train.py"), "stage=student", *MINI],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    one_line(done.stderr, "Permission denied")


def test_a_full_or_closed_device_is_said(cli):
    """/proc takes no folder from anyone, root included: a stand-in for a read-only disk."""
    if not Path("/proc/self").exists():
        pytest.skip("no /proc here")
    said = cli("stage=student", *MINI, "output_dir=/proc/outputs")
    assert said.code == 1
    one_line(said.err, "/proc/outputs")
