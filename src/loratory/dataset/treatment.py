"""How the pictures of one folder are trained: the settings of all folders, with those of its own above them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loratory.config.schema import CAPTION_KEYS, DATASET_KEYS, CaptionSettings, DatasetSettings, SubsetSettings


@dataclass(frozen=True)
class Treatment:
    """flip_aug, color_aug, random_crop: changes drawn at each visit. alpha_mask: transparency is the mask of the loss.
    validation_split: share of the pictures held back. masks: folder of mask pictures with the pictures' names."""

    caption: CaptionSettings
    flip_aug: bool = False
    color_aug: bool = False
    random_crop: bool = False
    alpha_mask: bool = False
    validation_split: float = 0.0
    masks: Path | None = None

    @property
    def varies_pixels(self) -> bool:
        """Whether a picture looks different at each visit, beyond being mirrored: such pictures cannot be cached."""
        return self.color_aug or self.random_crop

    @property
    def is_masked(self) -> bool:
        return self.alpha_mask or self.masks is not None


def treatment_of(
    folder: str, dataset: DatasetSettings, caption: CaptionSettings, subset: SubsetSettings | None = None
) -> Treatment:
    """The treatment of the concept folder called `folder`, which `subset` names if it has settings of its own."""
    own: Mapping[str, Any] = {} if subset is None else subset.model_dump(exclude_none=True)
    masks = own.get("conditioning_data_dir")
    if masks is None and dataset.conditioning_data_dir is not None:
        masks = dataset.conditioning_data_dir / folder
    captions = {key: value for key, value in own.items() if key in CAPTION_KEYS}
    chosen = {key: own.get(key, getattr(dataset, key)) for key in DATASET_KEYS}
    return Treatment(caption=caption.model_copy(update=captions) if captions else caption, masks=masks, **chosen)
