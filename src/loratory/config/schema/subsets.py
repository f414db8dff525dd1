"""Folders with settings of their own: the tables `[[dataset.subsets]]`."""

from typing import Annotated

from pydantic import Field

from loratory.config.schema.base import FileEnding, FilePath, OptionalCount, SettingsTable, Share


class SubsetSettings(SettingsTable):
    """`[[dataset.subsets]]`: one folder of pictures. What is left out is as in `[dataset]` and `[caption]`."""

    image_dir: FilePath
    """The folder that holds the pictures. A concept folder of `train_data_dir` or `reg_data_dir` gets these settings;
    any other folder is trained beside those."""

    num_repeats: OptionalCount = None
    """Visits of each picture in an epoch; left out, the number in front of the folder's name, or 1."""

    class_tokens: str | None = None
    """The caption of pictures without a caption file; left out, the folder's name behind its number."""

    is_reg: bool | None = None
    """Whether this is a regularization set; left out, only when it lies in `reg_data_dir`."""

    caption_extension: FileEnding | None = None
    """Ending of the caption files here."""

    shuffle_caption: bool | None = None
    """Shuffles the tags after the kept ones."""

    keep_tokens: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Number of TAGS at the front that stay."""

    keep_tokens_separator: str | None = None
    """Text in a caption that ends its kept part."""

    caption_separator: Annotated[str, Field(min_length=1)] | None = None
    """What separates tags."""

    secondary_separator: str | None = None
    """A separator inside a tag."""

    enable_wildcard: bool | None = None
    """Picks one line of a caption file and one of `{a|b|c}` on every visit."""

    caption_prefix: str | None = None
    """Text put before every caption."""

    caption_suffix: str | None = None
    """Text put after every caption."""

    caption_dropout_rate: Share | None = None
    """Chance that a visit sees no caption."""

    caption_dropout_every_n_epochs: Annotated[int, Field(ge=0)] | None = None
    """Every n-th epoch sees no captions."""

    caption_tag_dropout_rate: Share | None = None
    """Chance for each tag to be left out."""

    token_warmup_min: Annotated[int, Field(ge=0)] | None = None
    """Number of tags at the start of token warmup."""

    token_warmup_step: Annotated[float, Field(ge=0)] | None = None
    """Step at which all tags are in use."""

    flip_aug: bool | None = None
    """Mirrors pictures at random: per concept, because a scar or a parting has a side."""

    color_aug: bool | None = None
    """Varies hue and brightness a little."""

    random_crop: bool | None = None
    """Crops at a random place."""

    alpha_mask: bool | None = None
    """Uses transparency as the mask of the loss."""

    conditioning_data_dir: FilePath | None = None
    """The folder of mask pictures for this folder, with the pictures' names."""

    validation_split: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of these pictures held back to measure the validation loss."""


CAPTION_KEYS = frozenset(
    {
        "caption_extension",
        "shuffle_caption",
        "keep_tokens",
        "keep_tokens_separator",
        "caption_separator",
        "secondary_separator",
        "enable_wildcard",
        "caption_prefix",
        "caption_suffix",
        "caption_dropout_rate",
        "caption_dropout_every_n_epochs",
        "caption_tag_dropout_rate",
        "token_warmup_min",
        "token_warmup_step",
    }
)
"""Keys of a subset that stand in `[caption]` for all folders."""

DATASET_KEYS = frozenset({"flip_aug", "color_aug", "random_crop", "alpha_mask", "validation_split"})
"""Keys of a subset that stand in `[dataset]` for all folders."""
