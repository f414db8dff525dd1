"""The base model, the pictures and their captions: tables `[model]`, `[dataset]` and `[caption]`."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from loratory.config.schema.base import (
    Conflict,
    FileEnding,
    FilePath,
    Listed,
    PlainText,
    SettingsTable,
    Share,
    ZeroIsOff,
)
from loratory.config.schema.subsets import SubsetSettings

EMBEDDED_MODEL = "nano"

Goal = Literal["character", "concept", "clothing", "style"]
Channel = Annotated[int, Field(ge=0, le=255)]
Side = Annotated[int, Field(ge=32, le=8192)]


class ModelSettings(SettingsTable):
    """`[model]`: the base model an adapter is trained for. Family and prediction type are detected."""

    pretrained_model_name_or_path: PlainText
    """The base model: a `.safetensors` file, a diffusers folder, a Hugging Face hub id, or "nano" for the small
    embedded model. Give the full path; pickle files (`.ckpt`) are refused."""

    family: Literal["auto", "sd1", "sd2", "sdxl"] = "auto"
    """Architecture of the base model; "auto" reads it from the file. sd-scripts: `--v2` or the SDXL script."""

    v_parameterization: bool | None = None
    """Whether the model predicts velocity (v) rather than noise; left out, it is detected. V-prediction lets a model
    reach very dark and very bright pictures; the adapter must match its base."""

    vae: FilePath | None = None
    """Another VAE, a `.safetensors` file or a diffusers folder; left out, the base model's own."""

    no_half_vae: bool = False
    """Keeps the VAE in 32-bit floats. The original SDXL VAE overflows in fp16."""

    clip_skip: Annotated[Annotated[int, Field(ge=1, le=12)] | None, ZeroIsOff] = None
    """Which text-encoder layer to read, counted from the end; left out, the last. No effect on SDXL. Use what the base
    model was trained with: most anime models 2, most others 1."""

    base_weights: Annotated[tuple[FilePath, ...], Listed] = ()
    """Adapter files of any type, merged into the base model before training starts; the files stay as they are."""

    base_weights_multiplier: Annotated[tuple[float, ...], Listed] = ()
    """Strength of each file of `base_weights`, in their order; empty means 1.0 each."""

    def conflicts(self) -> Iterator[Conflict]:
        strengths, files = len(self.base_weights_multiplier), len(self.base_weights)
        if strengths and strengths != files:
            yield Conflict("base_weights_multiplier", f"has {strengths} numbers for {files} files in base_weights")


class DatasetSettings(SettingsTable):
    """`[dataset]`: the pictures, their sizes, and what is kept ready between steps."""

    train_data_dir: FilePath | None = None
    """The folder that holds the concept folders (`10_fox`: repeats, underscore, token), not a concept folder itself.
    May be left out where `subsets` name the folders."""

    reg_data_dir: FilePath | None = None
    """The folder of the regularization (prior preservation) set, laid out like `train_data_dir`; its class token is the
    caption. About as many pictures as the main set, up to some 50 to draw from."""

    goal: Goal = "character"
    """What is learnt. It sets the default exposure: 100, styles 35. Good sets have 15 to 50 pictures, styles 50 to 200.
    Not in sd-scripts."""

    vocabulary: Literal["natural", "danbooru", "e621"] = "danbooru"
    """The language of the captions: sentences, Danbooru tags or e621 tags. It follows the ancestry of the base model,
    and the adapter's metadata tell it to whoever prompts. Not in sd-scripts."""

    asymmetric: bool = False
    """Declares that left and right differ (a scar, an eye patch, text), which forbids `flip_aug`. Not in sd-scripts."""

    resolution: Annotated[Side | tuple[Side, Side], Listed] = 512
    """Training resolution in pixels: one number for a square area, or [width, height]. Pictures are scaled to about
    that area. 768 suits most models, 1024 SDXL, 640 many anime models, 512 small cards; never more than the base model
    generates by itself."""

    enable_bucket: bool = True
    """Groups pictures by aspect ratio instead of cropping all to one size. Off in sd-scripts."""

    min_bucket_reso: Side = 256
    """Shortest side of a bucket in pixels, rounded down to `bucket_reso_steps`; at most the resolution."""

    max_bucket_reso: Side = 1024
    """Longest side of a bucket in pixels, rounded up to `bucket_reso_steps`; at least the resolution. Larger than the
    resolution, for example 960 at 768."""

    bucket_reso_steps: Annotated[int, Field(ge=8, le=512, multiple_of=8)] = 64
    """Distance between bucket sizes in pixels, a multiple of 8. sd-scripts wants a multiple of 64, for SDXL 32."""

    bucket_no_upscale: bool = False
    """Never enlarges a small picture; `min_bucket_reso` and `max_bucket_reso` are then ignored."""

    resize_interpolation: Literal["lanczos", "area", "bicubic", "bilinear", "nearest", "box"] | None = None
    """The filter that resizes pictures; left out, area averaging to shrink and Lanczos to enlarge."""

    flip_aug: bool = False
    """Mirrors each picture left to right on half of its visits, which as good as doubles a small set. Never with a
    subject whose sides differ; `subsets` can set it for each concept."""

    color_aug: bool = False
    """Varies hue and brightness a little on each visit, so the pictures cannot be cached: slow."""

    random_crop: bool = False
    """Crops at a random place instead of the centre on each visit, so the pictures cannot be cached: slow."""

    alpha_background: Annotated[tuple[Channel, Channel, Channel], Listed] = (255, 255, 255)
    """Colour behind transparent pixels as [red, green, blue], 0 to 255 each. Not in sd-scripts, where hidden colours
    show through."""

    alpha_mask: bool = False
    """Uses transparency as the mask of the loss: what is transparent is not learnt."""

    conditioning_data_dir: FilePath | None = None
    """The folder of mask pictures for `loss.masked_loss`: a folder for each concept folder, both with the same names.
    White counts, black does not. sd-scripts: a key of its dataset TOML."""

    cache_latents: bool = True
    """Encodes each picture once before training and keeps the result in memory, which is faster. Off in sd-scripts."""

    cache_latents_to_disk: bool = False
    """Keeps the cached latents on disk and finds them again in the next run. Keyed by content here, so an edited
    picture is encoded again."""

    vae_batch_size: Annotated[int, Field(ge=1, le=256)] = 1
    """Pictures encoded at once while caching latents."""

    cache_text_encoder_outputs: bool | None = None
    """Encodes each caption once and keeps the result; left out, whenever the text encoder is not trained and captions
    are not shuffled or otherwise varied. sd-scripts: same, off there, for SDXL only."""

    cache_text_encoder_outputs_to_disk: bool = False
    """Keeps the cached captions on disk as well, keyed by content."""

    validation_split: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the pictures held back to measure the validation loss, 0 to 1."""

    validation_seed: Annotated[int, Field(ge=0)] | None = None
    """Seed that chooses the held-back pictures; left out, the run's seed."""

    max_data_loader_n_workers: Annotated[int, Field(ge=0, le=64)] = 0
    """Threads that prepare batches ahead of the step; 0 is one, as 1 is. More help where latents are not cached.
    sd-scripts' default is 8. The result does not depend on it."""

    dataset_config: FilePath | None = None
    """An sd-scripts dataset TOML; what it says becomes `subsets` and settings of `[dataset]` and `[caption]`."""

    subsets: Annotated[tuple[SubsetSettings, ...], Listed] = ()
    """Folders with settings of their own, as tables `[[dataset.subsets]]` with sd-scripts' keys; see below."""

    @property
    def resolution_wh(self) -> tuple[int, int]:
        """The training resolution as (width, height) in pixels."""
        return (self.resolution, self.resolution) if isinstance(self.resolution, int) else self.resolution

    def conflicts(self) -> Iterator[Conflict]:
        shortest, longest = min(self.resolution_wh), max(self.resolution_wh)
        if self.enable_bucket:
            if self.min_bucket_reso > shortest:
                yield Conflict(
                    "min_bucket_reso", f"is above the resolution; use {shortest} or less, or raise resolution"
                )
            if self.max_bucket_reso < longest:
                yield Conflict(
                    "max_bucket_reso", f"is below the resolution; use {longest} or more, or lower resolution"
                )
        elif shortest % 8 or longest % 8:
            yield Conflict("resolution", "must be a multiple of 8 when enable_bucket is off")
        if self.train_data_dir is None and not self.subsets and self.dataset_config is None:
            yield Conflict("train_data_dir", "is required: the folder that holds the concept folders")
        if self.dataset_config is not None and self.subsets:
            yield Conflict(
                "subsets", "stands beside dataset_config, which makes subsets of its own; remove one of them"
            )
        if self.asymmetric and self.flip_aug:
            yield Conflict("flip_aug", "mirrors pictures of a subject declared asymmetric; switch one of them off")
        if self.cache_latents_to_disk and not self.cache_latents:
            yield Conflict("cache_latents_to_disk", "does nothing without cache_latents")
        if self.cache_text_encoder_outputs_to_disk and self.cache_text_encoder_outputs is False:
            yield Conflict("cache_text_encoder_outputs_to_disk", "does nothing without cache_text_encoder_outputs")


class CaptionSettings(SettingsTable):
    """`[caption]`: how a caption file becomes the text of one visit."""

    caption_extension: FileEnding = ".txt"
    """Ending of the caption files, with its dot. sd-scripts' default is ".caption"; the kohya GUI uses ".txt"."""

    shuffle_caption: bool = False
    """Shuffles the tags after the kept ones on every visit, which helps flexibility."""

    keep_tokens: Annotated[int, Field(ge=0, le=1000)] = 0
    """Number of tags at the front that are neither shuffled nor dropped. It counts TAGS, not commas: a guide's "4 or 6"
    that means to keep the first two or three tags is 2 or 3 here."""

    keep_tokens_separator: str = ""
    """Text in a caption that ends its kept part, such as "|||"; where it occurs it replaces `keep_tokens`."""

    caption_separator: Annotated[str, Field(min_length=1)] = ","
    """What separates tags."""

    secondary_separator: str = ""
    """A separator inside a tag; it becomes `caption_separator` after shuffling, so its parts stay together."""

    enable_wildcard: bool = False
    """Picks one line of a caption file and one of `{a|b|c}` on every visit."""

    caption_prefix: str = ""
    """Text put before every caption, with a space."""

    caption_suffix: str = ""
    """Text put after every caption, with a space."""

    caption_dropout_rate: Share = 0.0
    """Chance that a visit sees no caption at all, 0 to 1."""

    caption_dropout_every_n_epochs: Annotated[int, Field(ge=0)] = 0
    """Every n-th epoch sees no captions; 0 is never."""

    caption_tag_dropout_rate: Share = 0.0
    """Chance for each tag after the kept ones to be left out of a visit, 0 to 1."""

    token_warmup_min: Annotated[int, Field(ge=0)] = 1
    """Number of tags after the kept ones at the start of token warmup."""

    token_warmup_step: Annotated[float, Field(ge=0)] = 0.0
    """Step at which all tags are in use; below 1 a share of the run, 0 switches warmup off."""

    max_token_length: Literal[75, 150, 225] = 75
    """Longest caption in text-encoder tokens; what goes beyond is cut."""

    weighted_captions: bool = False
    """Reads `(tag:1.3)` as an emphasis. Not together with shuffled tags that hold commas."""

    @property
    def varies(self) -> bool:
        """Whether a picture's caption differs from visit to visit by more than being left out."""
        return bool(
            self.shuffle_caption or self.caption_tag_dropout_rate or self.enable_wildcard or self.token_warmup_step
        )

    def conflicts(self) -> Iterator[Conflict]:
        if self.secondary_separator and self.secondary_separator == self.caption_separator:
            yield Conflict("secondary_separator", "is the same as caption_separator")
        if self.token_warmup_min != 1 and not self.token_warmup_step:
            yield Conflict("token_warmup_min", "does nothing without token_warmup_step")
