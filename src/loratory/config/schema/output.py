"""What a run leaves behind: tables `[output]` and `[sample]`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from loratory.config.schema.base import Conflict, FileName, FilePath, Listed, OptionalCount, SettingsTable, ZeroIsOff


class OutputSettings(SettingsTable):
    """`[output]`: files, their names, and how often they are written."""

    output_dir: FilePath = Path("output")
    """Folder of the finished adapters; by default beside the configuration file."""

    output_name: FileName = "lora"
    """Name of the adapter files, without folder and ending."""

    overwrite: bool = False
    """Whether an adapter file of the same name from an earlier run may be replaced. sd-scripts: always."""

    runs_dir: FilePath = Path("runs")
    """Folder of the run directories (events, resumable state, samples); by default beside the configuration file. Not
    in sd-scripts."""

    save_every_n_epochs: OptionalCount = None
    """Also saves the adapter every n epochs, to find the best one afterwards; 0 is off."""

    save_every_n_steps: OptionalCount = None
    """Also saves the adapter every n steps; 0 is off."""

    save_last_n_epochs: OptionalCount = None
    """Keeps the epoch saves of the last n epochs only; left out or 0, all."""

    save_last_n_steps: OptionalCount = None
    """Keeps the step saves of the last n steps only; left out or 0, all."""

    save_precision: Literal["fp16", "bf16", "float"] = "fp16"
    """Number format of the saved adapter. The guide saves in the format it trains in."""

    save_model_as: Literal["safetensors"] = "safetensors"
    """File format of the adapter; pickle formats can run code and are not written."""

    state_every_n_steps: Annotated[int, Field(ge=1)] = 100
    """How often the resumable state is written, in steps. sd-scripts: `save_state`, only together with a save."""

    state_keep: Annotated[int, Field(ge=1, le=100)] = 2
    """How many resumable states are kept. Not in sd-scripts."""

    log_with: Literal["none", "tensorboard"] = "none"
    """What else the run is logged with, beside its own events: "tensorboard" writes scalars and sample pictures that
    TensorBoard shows. sd-scripts: also "wandb" and "all"."""

    logging_dir: FilePath = Path("logs")
    """Folder of these logs, for `tensorboard --logdir`; each run has a folder of its own name there. By default beside
    the configuration file. sd-scripts: without default, and logs as soon as it is set."""

    training_comment: str = ""
    """A note stored in the adapter's metadata."""

    metadata_title: str = ""
    """Title in the metadata; left out, the output name."""

    metadata_author: str = ""
    """Author in the metadata."""

    metadata_description: str = ""
    """Description in the metadata."""

    metadata_license: str = ""
    """License in the metadata."""

    metadata_tags: str = ""
    """Tags in the metadata, separated by commas."""

    no_metadata: bool = False
    """Stores only what loaders need."""

    def conflicts(self) -> Iterator[Conflict]:
        for keep, save in (
            ("save_last_n_epochs", "save_every_n_epochs"),
            ("save_last_n_steps", "save_every_n_steps"),
        ):
            if getattr(self, keep) is not None and getattr(self, save) is None:
                yield Conflict(keep, f"does nothing without {save}")


class SampleSettings(SettingsTable):
    """`[sample]`: pictures drawn while training."""

    prompts: Annotated[tuple[str, ...], Listed] = ()
    """Prompts to draw, each with kohya's flags where wanted: `--n` negative prompt, `--w` width, `--h` height, `--d`
    seed, `--s` steps, `--l` guidance scale, `--ss` sampler. sd-scripts: the lines of `sample_prompts`."""

    sample_prompts: FilePath | None = None
    """A text file with one prompt a line, instead of `prompts`."""

    prompts_from_captions: OptionalCount = None
    """Draws also up to this many different captions of the training set, chosen by `training.seed` and spread over the
    concepts; 0 is off. Not in sd-scripts."""

    sample_every_n_epochs: OptionalCount = None
    """Draws every n epochs; 0 is off."""

    sample_every_n_steps: OptionalCount = None
    """Draws every n steps; 0 is off."""

    sample_at_first: bool = False
    """Draws once before the first step, to compare with."""

    sample_at_end: bool = True
    """Draws after the last step. Not in sd-scripts."""

    sample_sampler: Literal[
        "ddim",
        "pndm",
        "lms",
        "euler",
        "euler_a",
        "heun",
        "dpm_2",
        "dpm_2_a",
        "dpmsolver",
        "dpmsolver++",
        "dpmsingle",
        "k_lms",
        "k_euler",
        "k_euler_a",
        "k_dpm_2",
        "k_dpm_2_a",
    ] = "ddim"
    """The sampler."""

    width: Annotated[Annotated[int, Field(ge=64, le=4096, multiple_of=8)] | None, ZeroIsOff] = None
    """Width in pixels; left out, that of the training resolution. sd-scripts: `--w`, default 512."""

    height: Annotated[Annotated[int, Field(ge=64, le=4096, multiple_of=8)] | None, ZeroIsOff] = None
    """Height in pixels; left out, that of the training resolution. sd-scripts: `--h`, default 512."""

    steps: Annotated[int, Field(ge=1, le=1000)] = 30
    """Sampler steps. sd-scripts: `--s`."""

    guidance_scale: Annotated[float, Field(ge=0, le=100)] = 7.5
    """How strictly the prompt is followed. sd-scripts: `--l`."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 42
    """Seed of the pictures, the same each time, so that they can be compared. sd-scripts: `--d`, default random."""

    negative_prompt: str = ""
    """What the pictures should not show. sd-scripts: `--n`."""

    def conflicts(self) -> Iterator[Conflict]:
        if self.prompts and self.sample_prompts is not None:
            yield Conflict("sample_prompts", "stands beside prompts: give one of them")
        if not self.prompts and self.sample_prompts is None and self.prompts_from_captions is None:
            for key in ("sample_every_n_epochs", "sample_every_n_steps", "sample_at_first"):
                if getattr(self, key):
                    yield Conflict(
                        key, "needs something to draw: give prompts, sample_prompts or prompts_from_captions"
                    )


class LintSettings(SettingsTable):
    """`[lint]`: which advice about settings is not wanted."""

    silence: Annotated[tuple[str, ...], Listed] = ()
    """Ids of rules whose findings are not shown, such as "batch-size"; `loratory plan` prints them."""
