"""Configurations composed by Hydra from the words of a command, outside Hydra's own start."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from string import Template

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from kd.config.messages import explain
from kd.errors import UserError
from kd.files import CONF, choices


@contextmanager
def composing() -> Generator[None]:
    """Have Hydra know our configurations, and put its errors in our words.

    Raises:
        UserError: the block ended in a mistake of the user's.
    """
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            yield
    except UserError:
        raise
    except Exception as error:
        if (message := explain(error)) is None:
            raise
        raise UserError(message) from error


def compose_words(words: Sequence[str]) -> DictConfig:
    """What Hydra makes of words, its own node ``hydra`` included; within :func:`composing`."""
    return compose("config", overrides=list(words), return_hydra_config=True)


def help_page(words: Sequence[str]) -> str:
    """What ``--help`` prints: Hydra's own way to it takes as long again as all the rest."""
    with composing():
        cfg = compose_words(words)
    groups = {path.name: choices(path.name) for path in sorted(CONF.iterdir())}
    listed = [f"{name}: {', '.join(found)}" for name, found in groups.items() if found]
    own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    page = Template(cfg.hydra.help.template)
    return page.safe_substitute(APP_CONFIG_GROUPS="\n".join(listed), CONFIG=OmegaConf.to_yaml(own))
