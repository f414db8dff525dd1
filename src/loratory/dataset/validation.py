"""Which pictures are held back to measure the validation loss."""

import math
from collections.abc import Sequence

from loratory.dataset.scan import ConceptFolder, TrainImage
from loratory.randomness import stream


def split_validation(folders: Sequence[ConceptFolder], seed: int) -> tuple[list[TrainImage], list[TrainImage]]:
    """(pictures to train, pictures held back), in the dataset's order.

    Each folder gives its share, rounded with halves up, chosen by the seed and the folder's name alone, and keeps at
    least one picture to train. Regularization sets are not asked.
    """
    train: list[TrainImage] = []
    held_back: list[TrainImage] = []
    for folder in folders:
        share = 0.0 if folder.is_reg else folder.treatment.validation_split
        count = min(math.floor(share * len(folder.images) + 0.5), len(folder.images) - 1)
        chosen = set(
            stream(seed, "validation split", folder.path.name).sample(range(len(folder.images)), max(count, 0))
        )
        for index, image in enumerate(folder.images):
            (held_back if index in chosen else train).append(image)
    return train, held_back
