"""What README and docs tell people to type exists and is understood."""

import re
import shlex

import pytest
from helpers import composed

from kd.config.command_line import quote_path
from kd.config.validation import validate
from kd.files import PROJECT

README = (PROJECT / "README.md").read_text(encoding="utf-8")
PAGES = [README, *(page.read_text(encoding="utf-8") for page in (PROJECT / "docs").glob("*.md"))]
COMMAND = re.compile(r"^python train\.py (.*=.*?)(?:\s+#.*)?$", re.M)
COMMANDS = sorted({c for page in PAGES for c in COMMAND.findall(page.replace(" \\\n", " "))})


def test_there_are_commands():
    assert len(COMMANDS) >= 30


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_understood(command):
    words = [quote_path(word) for word in shlex.split(command) if word != "-m"]
    words = [
        re.sub(r"=(?:tag\(log,)?(?:interval|range)\(([^,]*),.*", r"=\1", word) for word in words
    ]
    one_path = re.compile(r'[^=]+="[^"]*"')
    first = [w if one_path.fullmatch(w) else re.sub(r"=([^,\[]*),.*", r"=\1", w) for w in words]
    validate(composed(*first))


def test_every_make_target_and_every_file_exists():
    targets = set(re.findall(r"^([a-z]+):", (PROJECT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"(?:^|`)make ([a-z]+)", README, re.M)) <= targets
    for path in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (PROJECT / path).exists(), path
