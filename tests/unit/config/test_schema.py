"""Every shipped configuration composes; wrong settings are named; folders are named by settings."""

import re
import shlex
from pathlib import Path

import pytest
from helpers import CONF, composed, config
from omegaconf import OmegaConf

from kd.config.command_line import check
from kd.config.naming import run_name
from kd.config.schema import Config, flatten, relevant
from kd.config.validation import validate
from kd.errors import UserError
from kd.methods import METHODS
from kd.models import MODELS

CHOICES = sorted(path.relative_to(CONF) for path in CONF.glob("*/*.yaml"))


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_every_choice_composes_and_is_valid(choice):
    plus = "+" if choice.parent.name == "experiment" else ""
    config = validate(composed(*check([f"{plus}{choice.parent}={choice.stem}"])))
    assert config.data.batch_size > 0


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_every_choice_says_how_to_run_it_and_the_command_is_right(choice):
    comment = "".join(
        line for line in (CONF / choice).open() if line.startswith("#") and "@package" not in line
    )
    commands = re.findall(r"python train\.py (.*)", comment)
    assert commands, "the head comment holds no command"
    for command in commands:
        words = [word for word in shlex.split(command) if word != "-m"]
        words = [re.sub(r"=([^,\[]*),.*", r"=\1", word) for word in words]
        validate(composed(*check(words)))


def test_the_defaults_are_the_documented_ones():
    flat = flatten(validate(composed("stage=distill")))
    expected = {
        "study": "main",
        "seed": 0,
        "data.seed": 0,
        "data.split": "official",
        "data.batch_size": 128,
        "trainer.max_epochs": 10,
        "optim.schedule": "cosine",
        "kd.method": "hinton",
    }
    assert {key: flat[key] for key in expected} == expected
    assert flatten(validate(composed("stage=teacher")))["model.name"] == "cnn"


def test_the_talk_is_the_talks():
    flat = flatten(validate(composed("stage=student", "+experiment=talk")))
    expected = {
        "study": "talk",
        "data.split": "pooled",
        "data.batch_size": 32,
        "optim.lr": 1e-3,
        "optim.schedule": "constant",
        "optim.eps": 1e-7,
        "trainer.max_epochs": 20,
        "checkpoint": "last",
        "model.dropout": 0.1,
    }
    assert {key: flat[key] for key in expected} == expected


def test_an_optimiser_brings_its_own_settings():
    wanted = {"adam": (0.01, 0, 0), "adamw": (0.01, 0.01, 0), "sgd": (0.1, 0, 0.9)}
    for name, settings in wanted.items():
        optim = config("stage=student", f"optim={name}").optim
        assert (optim.name, optim.lr, optim.weight_decay, optim.momentum) == (name, *settings)
    assert config("stage=teacher", "optim=adamw").optim.lr == config("stage=teacher").model.lr


@pytest.mark.parametrize(
    "words", [["debug=fast", "+experiment=talk"], ["debug=fast"], ["+debug=fast"]]
)
def test_debugging_leaves_other_studies_alone(words):
    found = validate(composed(*check(words)))
    assert (found.study, found.overwrite) == ("debug", True)
    assert (found.trainer.max_epochs, found.trainer.limit_batches) == (1, 2)
    assert run_name(found, check(words)) == "teacher/seed=0,trainer.limit_batches=2"
    talks = "+experiment=talk" in words
    assert found.optim.schedule == ("constant" if talks else "cosine")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("kd.T=0", "kd.T=0: must be a number above 0"),
        ("kd.T=-1", "above 0"),
        ("kd.T=inf", "above 0"),
        ("kd.alpha=1.5", "kd.alpha=1.5: must be a number from 0 to 1"),
        ("kd.alpha=nan", "from 0 to 1"),
        ("kd.alpha=half", "kd.alpha=half: must be a number"),
        ("kd.direction=sideways", "forward or reverse"),
        ("data.batch_size=-1", "data.batch_size=-1: must be a whole number from 1 to"),
        ("data.batch_size=1.5", "whole number"),
        ("data.split=half", "official or pooled"),
        ("seed=-1", "seed=-1: must be a whole number from 0"),
        ("model.dropout=1", "from 0 to below 1"),
        ("model.hidden=0", "model.hidden=0"),
        ("optim.lr=0", "optim.lr=0"),
        ("optim.schedule=linear", "cosine or constant or onecycle"),
        ("trainer.max_epochs=0", "trainer.max_epochs=0"),
        ("checkpoint=first", "last or best"),
        ("overwrite=maybe", "true or false"),
        ("study=a/b", "study=a/b"),
        ("study=..", "study=.."),
        ("teacher.checkpoint=[]", "teacher.checkpoint=[]"),
        ("model.name=vgg", ", ".join(MODELS)),
        ("model.name=[cnn,mlp]", "model.name=[cnn,mlp]: unknown"),
        ("kd.method=[hinton,dkd]", "kd.method=[hinton,dkd]: unknown"),
        ("+kd.beta=1", "kd.beta: no such key"),
        ("+extra=1", "extra: no such key"),
        ("~kd.T", "kd.T: missing"),
        ("~kd", "kd"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_allowed(override, said):
    with pytest.raises(UserError) as error:
        validate(composed("stage=distill", override))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_seed_zero_counts():
    assert validate(composed("seed=0", "data.seed=0")).seed == 0


def name(*words: str) -> str:
    return run_name(validate(composed(*words)), list(words))


def test_runs_are_named_by_their_parameters():
    assert name("stage=teacher") == "teacher/seed=0"
    assert name("stage=student", "seed=3", "study=x") == "student/seed=3"
    assert name("stage=distill", "kd.T=2", "kd.alpha=0") == "distill/T=2.0,alpha=0.0,seed=0"
    assert name("stage=distill", "kd.T=2.0") == name("stage=distill", "kd.T=2")


def test_further_overrides_are_appended_sorted_and_safe_for_a_path():
    said = name("stage=distill", "optim.lr=1e-3", "kd.direction=reverse", "model.hidden=16")
    expected = "kd.direction=reverse,model.hidden=16,optim.lr=0.001"
    assert said == f"distill/T=2.0,alpha=0.5,seed=0,{expected}"
    odd = name("stage=distill", 'teacher.checkpoint="../a b/seed=1/x.ckpt"')
    assert re.fullmatch(r"distill/[\w.,=+-]+", odd)


def test_places_and_experiments_do_not_name_a_run():
    assert (
        name("stage=teacher", "+experiment=talk", "output_dir=o", "data.dir=d") == "teacher/seed=0"
    )


def test_a_student_does_not_depend_on_the_method():
    plain = relevant(validate(composed("stage=student")))
    assert plain == relevant(validate(composed("stage=student", "kd.T=9", "teacher.seed=4")))
    assert name("stage=student", "kd.T=9") == "student/seed=0"


def test_the_saved_configuration_reads_back(tmp_path: Path):
    config = validate(composed("stage=distill", "kd.T=3", "model.hidden=8"))
    saved = OmegaConf.create(OmegaConf.to_yaml(OmegaConf.structured(config)))
    assert validate(saved) == config


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_defaults_are_those_of_its_file(name):
    assert config(f"kd={name}").kd == METHODS[name]()


@pytest.mark.parametrize("name", MODELS)
def test_a_networks_defaults_are_those_of_its_file(name):
    assert config(f"model={name}").model == MODELS[name]()


def test_the_schemas_defaults_are_those_of_conf():
    found, schema = flatten(config()), flatten(Config())
    chosen = ("model.", "optim.lr", "data.dir")  # by the stage, or by where kd lies
    assert {key: found[key] for key in schema if not key.startswith(chosen)} == {
        key: value for key, value in schema.items() if not key.startswith(chosen)
    }
