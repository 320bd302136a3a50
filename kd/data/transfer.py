"""What a network trains on: all training images, or fewer labels, wrong ones, or fewer classes.

The study of *when* distillation works needs these. They touch neither validation nor test.
"""

from typing import NamedTuple

import numpy as np

from kd.config.schema import Data
from kd.errors import UserError, shown

NONE = -1  # the label of an image whose label is withheld


class Transfer(NamedTuple):
    """The training images as they are taught."""

    labelled: np.ndarray  # (images,), indices into the pool, sorted
    unlabelled: np.ndarray  # (images,), of those whose labels are withheld
    labels: np.ndarray  # of the whole pool, as they are taught: some wrong, or NONE


def transfer_set(labels: np.ndarray, train: np.ndarray, config: Data) -> Transfer:
    """Draw what is taught, from ``data.seed`` alone: classes left out, then labels, then noise.

    Args:
        labels: (samples,), true, of the whole pool.
        train: the indices of the training part.
        config: ``omit`` leaves out classes; of the rest ``train_size`` keeps so many labels,
            stratified, and ``unlabelled`` the other images without theirs; a share ``label_noise``
            of the labels becomes another class.

    Raises:
        UserError: the settings do not suit the images.
    """
    if absent := sorted(set(config.omit) - set(labels.tolist())):
        raise UserError(
            f"data.omit={shown(config.omit)}: the data has no class {absent[0]}, only 0 to "
            f"{labels.max()}"
        )
    labelled = train[~np.isin(labels[train], config.omit)]
    classes = np.unique(labels[labelled])
    if len(classes) < 2:
        raise UserError(f"data.omit={shown(config.omit)}: leaves fewer than two classes to learn")
    unlabelled = labelled[:0]
    if config.train_size is not None:
        labelled, unlabelled = _split(labelled, labels, config)
    taught = labels.copy()
    if config.label_noise:
        noise = np.random.default_rng([config.seed, 1])
        wrong = noise.permutation(labelled)[: round(config.label_noise * len(labelled))]
        steps = noise.integers(1, len(classes), len(wrong))  # to another class, each as likely
        places = np.searchsorted(classes, labels[wrong])
        taught[wrong] = classes[(places + steps) % len(classes)]
    if not config.unlabelled:
        return Transfer(labelled, unlabelled[:0], taught)
    taught[unlabelled] = NONE
    return Transfer(labelled, unlabelled, taught)


def _split(candidates: np.ndarray, labels: np.ndarray, config: Data) -> list[np.ndarray]:
    """Split the candidates into ``data.train_size`` of them, stratified, and the rest."""
    size = config.train_size or 0
    if size == len(candidates):
        return [candidates, candidates[:0]]
    from sklearn.model_selection import train_test_split

    try:
        parts = train_test_split(
            candidates, train_size=size, random_state=config.seed, stratify=labels[candidates]
        )
    except ValueError as error:
        raise UserError(
            f"data.train_size={size}: cannot be taken from {len(candidates)} training images; give "
            f"{(classes := len(np.unique(labels[candidates])))} to {len(candidates) - classes}, or "
            f"{len(candidates)}"
        ) from error
    return [np.sort(part) for part in parts]
