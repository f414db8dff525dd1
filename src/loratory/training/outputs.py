"""What a run leaves behind: adapter files, checked after every save, and preview pictures."""

import hashlib
import time
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL.PngImagePlugin import PngInfo

from loratory import atomic
from loratory.adapters.files import save_adapter
from loratory.adapters.lora import Adapter
from loratory.adapters.verify import compare_with_live
from loratory.config.schema import Config
from loratory.errors import FAILED, LoratoryError
from loratory.models.detect import ModelInfo
from loratory.models.load import BaseModel
from loratory.runs.events import Phase, Sampled, Saved
from loratory.runs.recorder import Recorder
from loratory.runs.store import EventReader, RunDirectory
from loratory.sampling.preview import Prompt, draw, prompts_of
from loratory.training.metadata import adapter_metadata
from loratory.training.plan import Plan

# Largest difference between a weight's delta in the file and in memory, relative to its largest entry, that the
# rounding to the file's format explains: half a unit in the last place of both factors, with room for the sum.
_TOLERANCE = {"float": 1e-5, "fp16": 4e-3, "bf16": 3e-2}


@dataclass
class Outputs:
    """Writes adapter files to `output.output_dir` and pictures to the run's `samples/`."""

    config: Config
    plan: Plan
    run: RunDirectory
    recorder: Recorder
    base: BaseModel
    adapter: Adapter
    device: torch.device
    dtype: torch.dtype
    hashes: "Future[dict[str, str]]"

    def __post_init__(self) -> None:
        history = EventReader(self.run.events).read()
        self._started_s = history[0].time_s if history else time.time()
        # Only files of this run are ever removed, those from before a resume included.
        self._saved = {Path(t.event.path): t.event for t in history if isinstance(t.event, Saved)}

    def due(self, step: int, epoch: int, *, epoch_ends: bool) -> bool:
        """Whether `write` has anything to do after `step`."""
        return self._save_due(step, epoch, epoch_ends) is not None or self._samples_due(step, epoch, epoch_ends)

    def write(self, step: int, epoch: int, *, epoch_ends: bool, last: bool) -> None:
        """Saves and draws what is due after `step`, in `epoch`; after the last step the final file and samples."""
        name = self.config.output.output_name
        stem = name if last else self._save_due(step, epoch, epoch_ends)
        if stem is not None:
            self._save(stem, step, epoch)
            self._remove_old()
        if self._samples_due(step, epoch, epoch_ends) or (last and self.config.sample.sample_at_end):
            self.draw_samples(step)

    def save_step(self, step: int) -> None:
        """Saves now, named by the step."""
        epoch = max(step - 1, 0) // self.plan.steps_per_epoch + 1
        self._save(self._step_stem(step), step, epoch)

    def draw_samples(self, step: int) -> None:
        """Draws every prompt of the config; each PNG carries what it was drawn with."""
        prompts = prompts_of(self.config)
        epoch = max(step - 1, 0) // self.plan.steps_per_epoch + 1
        for index, prompt in enumerate(prompts):
            self.recorder.write(Phase("drawing samples", index, len(prompts)))
            (image,) = draw(
                self.base,
                [prompt],
                clip_skip=self.config.model.clip_skip,
                max_token_length=self.config.caption.max_token_length,
                device=self.device,
                dtype=self.dtype,
            )
            path = self.run.samples / f"step{step:08d}-{index:02d}-{prompt.seed}.png"
            with atomic.replacing(path, durable=False) as temporary:
                image.save(temporary, "PNG", pnginfo=_parameters(prompt, self.config, step))
            self.recorder.write(Sampled(step, epoch, str(path.relative_to(self.run.path)), prompt.text))

    def _step_stem(self, step: int) -> str:
        return f"{self.config.output.output_name}-step{step:08d}"

    def _save_due(self, step: int, epoch: int, epoch_ends: bool) -> str | None:
        output = self.config.output
        if step == self.plan.length.total_steps:
            return None  # the final file takes their place
        if epoch_ends and output.save_every_n_epochs and epoch % output.save_every_n_epochs == 0:
            return f"{output.output_name}-{epoch:06d}"
        if output.save_every_n_steps and step % output.save_every_n_steps == 0:
            return self._step_stem(step)
        return None

    def _samples_due(self, step: int, epoch: int, epoch_ends: bool) -> bool:
        sample = self.config.sample
        by_epoch = epoch_ends and sample.sample_every_n_epochs and epoch % sample.sample_every_n_epochs == 0
        return bool(by_epoch or (sample.sample_every_n_steps and step % sample.sample_every_n_steps == 0))

    def _save(self, stem: str, step: int, epoch: int) -> None:
        output = self.config.output
        path = output.output_dir / f"{stem}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = adapter_metadata(
            self.config,
            self.plan,
            step=step,
            epoch=epoch,
            started_s=self._started_s,
            finished_s=time.time(),
            model_hashes=self.hashes.result(),
        )
        save_adapter(path, self.adapter.kohya_state_dict(), metadata, output.save_precision)
        difference = compare_with_live(path, self.adapter)
        if not difference <= _TOLERANCE[output.save_precision]:
            raise LoratoryError(
                f"{path} was written, but read back it does not give the network that was trained (relative "
                f"difference {difference:.2g}).",
                hint='Check the disk, and whether the weights outgrew the format: output.save_precision = "float".',
                exit_code=FAILED,
            )
        self._saved[path] = Saved(step, epoch, str(path), path.stat().st_size, difference)
        self.recorder.write(self._saved[path])

    def _remove_old(self) -> None:
        """Keeps the last n epochs and steps of files, as save_last_n_epochs and save_last_n_steps say."""
        output = self.config.output
        epochs = {p: s.epoch for p, s in self._saved.items() if p.stem == f"{output.output_name}-{s.epoch:06d}"}
        steps = {p: s.step for p, s in self._saved.items() if p.stem == self._step_stem(s.step)}
        for numbers, last in ((epochs, output.save_last_n_epochs), (steps, output.save_last_n_steps)):
            for path, number in numbers.items():
                if last and number <= max(numbers.values()) - last:
                    path.unlink(missing_ok=True)
                    del self._saved[path]


def refuse_overwriting(config: Config, run: RunDirectory) -> None:
    """Raises LoratoryError when the final file exists and is not this run's own."""
    path = config.output.output_dir / f"{config.output.output_name}.safetensors"
    own = any(isinstance(t.event, Saved) and Path(t.event.path) == path for t in EventReader(run.events).read())
    if path.exists() and not own and not config.output.overwrite:
        raise LoratoryError(
            f"{path} exists already, and this run would replace it.",
            hint="Choose another output.output_name, or set output.overwrite = true.",
        )


def _parameters(prompt: Prompt, config: Config, step: int) -> PngInfo:
    """The settings of a picture in the text chunk that A1111 and its successors read."""
    info = PngInfo()
    info.add_text(
        "parameters",
        f"{prompt.text}\nNegative prompt: {prompt.negative}\nSteps: {prompt.steps}, Sampler: DDIM, "
        f"CFG scale: {prompt.guidance_scale}, Seed: {prompt.seed}, Size: {prompt.width}x{prompt.height}, "
        f"Lora: {config.output.output_name} at step {step}",
    )
    return info


def model_hashes(info: ModelInfo) -> dict[str, str]:
    """The two hashes front ends know a base model by; none for a folder of components.

    ss_sd_model_hash: first 8 digits of the SHA-256 of 64 KiB at 1 MiB. ss_new_sd_model_hash: SHA-256 of the file.
    """
    if info.layout != "single_file":
        return {}
    with Path(info.path).open("rb") as file:
        whole = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0x100000)
        part = hashlib.sha256(file.read(0x10000)).hexdigest()
    return {"ss_sd_model_hash": part[:8], "ss_new_sd_model_hash": whole}
