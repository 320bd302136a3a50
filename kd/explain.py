"""What to say of an error: a line for a user's mistake, nothing for ours.

Like ``kd.config`` imported before anything heavy.
"""

import re

from hydra.errors import MissingConfigException, OverrideParseException

from kd.config import CNN, METHODS, Config, UserError, flatten, unknown_key


def explain(error: BaseException) -> str | None:
    """One line for a user's mistake; None for an error that is ours, which deserves a traceback."""
    chain = [error]
    while cause := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(cause)
    for link in chain:
        if isinstance(link, UserError):
            return str(link)
    if "Config group override must be a string" in str(error):  # a bare ValueError of Hydra's
        return "a group takes the name of one of its choices, as in data=mnist; see --help"
    if type(error).__module__.startswith(("hydra.", "omegaconf.")):
        return _explain_hydra(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'the output'}: {error.strerror}"
    return None


def _explain_hydra(error: BaseException) -> str:
    """Hydra's own message in one line, without advice that does not hold here (``+key=``)."""
    text = str(error)
    if isinstance(error, OverrideParseException):
        return f"{error.override}: cannot be read as KEY=VALUE; quote odd characters: 'KEY=\"a=b\"'"
    if isinstance(error, MissingConfigException) and error.options:
        group, _, option = (error.missing_cfg_file or "").rpartition("/")
        return f"{group}={option}: no such choice; choose from {', '.join(error.options)}"
    if found := re.match(r"Could not override '([^']*)'", text):
        if found[1] == "experiment":
            return "experiment: give it with a plus, as in +experiment=talk"
        known = {*flatten(Config(model=CNN())), "stage"}
        known |= {key for method in METHODS.values() for key in flatten(Config(kd=method()))}
        return unknown_key(found[1], sorted(known))
    if found := re.match(r"Ambiguous value for argument '([^']*)'", text):
        return f"{found[1]}: several values; add -m to sweep over them, or write [a,b] for a list"
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    return " ".join(lines[:2]) or type(error).__name__
