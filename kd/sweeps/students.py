"""What tells the students of a group apart: the settings in which they may differ."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from kd.config.schema import Config, relevant
from kd.fields import sweepable_names
from kd.methods import find_method

Settings = TypeVar("Settings")

Student = str  # its settings by their keys, as JSON


def own_keys(config: Config) -> set[str]:
    """The keys, but those of kd and teacher, that students of a group need not have in common."""
    names = {name for name in sweepable_names(config) if not name.startswith(("kd.", "teacher."))}
    if not config.model.stacks:  # its width is part of its architecture
        names -= {"model.hidden"}
    return names


def is_taught(config: Config) -> bool:
    """Whether a teacher plays a part: not at alpha = 1."""
    return config.stage == "distill" and config.kd.alpha < 1


def student_of(config: Config) -> Student:
    """The settings that make a job's student what it is within its group.

    Without a teacher's part those of kd and teacher are none of them: jobs at alpha = 1 that differ
    in T alone share one student, and have its results to the last bit, and the student alone is
    that student too.
    """
    own = own_keys(config)
    taught = ("kd.", "teacher.") if is_taught(config) else ()
    found = relevant(config).items()
    return json.dumps({k: v for k, v in found if k in own or k.startswith(taught)}, sort_keys=True)


def in_common(config: Config) -> dict[str, Any]:
    """The settings that students must have in common to train together."""
    own = own_keys(config)
    shared = {
        key: value
        for key, value in relevant(config).items()
        if key not in own and not key.startswith(("kd.", "teacher."))
    }
    return shared | {"stage": "teacher" if config.stage == "teacher" else "student"}


def config_of(student: Student, lead: Config) -> Config:
    """The configuration of a student; what it has in common with its group is as ``lead`` says."""
    own = json.loads(student)
    stage = "teacher" if lead.stage == "teacher" else "student"
    if "kd.method" in own:
        lead = dataclasses.replace(lead, kd=find_method(own["kd.method"])())
        stage = "distill"
    return replaced(dataclasses.replace(lead, stage=stage), own)


def replaced(settings: Settings, values: Mapping[str, Any], prefix: str = "") -> Settings:
    """Settings with other values, by their keys."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(settings):  # pyright: ignore[reportArgumentType]
        key, below = f"{prefix}{field.name}", getattr(settings, field.name)
        if dataclasses.is_dataclass(below):
            changes[field.name] = replaced(below, values, f"{key}.")
        elif key in values:
            changes[field.name] = values[key]
    return dataclasses.replace(settings, **changes)  # pyright: ignore[reportArgumentType]
