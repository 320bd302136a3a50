"""A student's settings, taken from a configuration and put back."""

import json

import pytest
from helpers import config
from torture.settings import GROUPS, NOT_SWEPT, Case, cases, parts

from kd.config.schema import Config, relevant
from kd.sweeps.students import config_of, in_common, is_taught, student_of

# What the configurations below have to say beside the case's own words.
USUAL = ("data=mnist_mini",)


def both(case: Case) -> list[Config]:
    """The configurations of a case's two values."""
    key = GROUPS.get(case.key, case.key)
    told = {word.split("=")[0] for word in case.words} | {case.key}
    stage = [] if "stage" in told else ["stage=distill"]
    return [config(*stage, *USUAL, *case.words, f"{key}={value}") for value in parts(case.values)]


def trains_as(one: Config, other: Config) -> None:
    """Two configurations make the same student; without a teacher's part kd plays none."""
    assert is_taught(one) == is_taught(other)
    mine, its = (relevant(c) for c in (one, other))
    ours = "kd.", "teacher.", "stage"
    if not is_taught(one):
        mine, its = ({k: v for k, v in d.items() if not k.startswith(ours)} for d in (mine, its))
    assert mine == its


@pytest.mark.parametrize("case", cases(), ids=lambda case: "-".join((case.key, *case.words)))
def test_a_student_has_the_settings_of_its_configuration(case):
    found = both(case)
    for one in found:
        trains_as(config_of(student_of(one), one), one)
        json.loads(student_of(one))
    leads = [lead for lead in found if in_common(lead) == in_common(found[0])]
    for one in leads:  # they may train together: any of them serves as the lead
        for lead in leads:
            trains_as(config_of(student_of(one), lead), one)
    if case.key not in NOT_SWEPT:
        assert student_of(found[0]) != student_of(found[1]) or len(leads) == 1


def test_a_student_of_a_plan_is_the_same_after_reading_it():
    one = config("stage=distill", "kd=dkd", "optim.betas=[0.5,0.9]", "data.omit=[3]", "kd.T=3")
    again = json.dumps(dict(json.loads(student_of(one))), sort_keys=True)
    assert again == student_of(one)


def test_at_alpha_1_a_student_is_the_student_alone():
    alone = student_of(config("stage=student", "seed=3"))
    for words in (["kd.T=7"], ["kd=dkd"], ["teacher.seed=5"], ["kd.warmup_epochs=3"]):
        assert student_of(config("stage=distill", "seed=3", "kd.alpha=1", *words)) == alone
    assert student_of(config("stage=distill", "seed=3", "kd.alpha=0.9")) != alone


def test_a_lead_that_is_alone_serves_a_student_of_any_method():
    lead = config("stage=student", "seed=4", "optim.lr=0.5")
    for words in (["kd=dkd", "kd.target_weight=3"], ["kd=hint"], ["kd=hinton", "kd.T=9"]):
        one = config("stage=distill", "optim.lr=0.1", *words)
        found = config_of(student_of(one), lead)
        trains_as(found, one)
        assert found.kd == one.kd
        assert found.stage == "distill"


def test_teachers_are_no_students_company():
    teacher, student = (config(f"stage={stage}", "model=mlp") for stage in ("teacher", "student"))
    assert in_common(teacher) != in_common(student)
    assert config_of(student_of(teacher), teacher).stage == "teacher"
    assert in_common(student) == in_common(config("stage=distill", "kd=dkd"))


def test_a_width_is_of_the_student_where_the_network_stacks():
    one, other = (config("stage=student", f"model.hidden={n}") for n in ("16", "24"))
    assert in_common(one) == in_common(other)
    one, other = (config("stage=student", f"model.hidden={n}") for n in ("[16,8]", "[24,8]"))
    assert in_common(one) != in_common(other)
