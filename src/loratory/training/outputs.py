"""What a run leaves behind: adapter files, checked after every save, and preview pictures."""

import glob
import hashlib
import itertools
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from loratory import atomic
from loratory.adapters.files import save_adapter
from loratory.adapters.self_check import compare_with_live
from loratory.config.schema import Config
from loratory.errors import FAILED, LoratoryError
from loratory.models.detect import ModelInfo
from loratory.runs.control import Control
from loratory.runs.events import Notice, Phase, Sampled, Saved, Saving, Timed
from loratory.runs.foreign import AVERAGE, refuse_foreign_files
from loratory.runs.recorder import Recorder
from loratory.runs.store import RunDirectory, is_full_disk
from loratory.sampling.preview import draw
from loratory.sampling.prompts import Prompt, default_prompt, parameters_text, parse_prompt
from loratory.sampling.samplers import refuse_samplers
from loratory.training.engine import Engine
from loratory.training.metadata import adapter_metadata

# Largest difference between a weight's delta in the file and in memory, relative to its largest entry, that the
# rounding to the file's format explains: half a unit in the last place of both factors, with room for the sum.
_TOLERANCE = {"float": 1e-5, "fp16": 4e-3, "bf16": 3e-2}


@dataclass
class Outputs:
    """Writes adapter files to `output.output_dir` and pictures to the run's `samples/`.

    past: the run's first event and what it has told of its files, by this and earlier processes.
    """

    engine: Engine
    run: RunDirectory
    recorder: Recorder
    control: Control
    hashes: "Future[dict[str, str]]"
    past: Sequence[Timed]

    def __post_init__(self) -> None:
        self._plan = self.engine.plan
        self._output = self._plan.config.output
        self._started_s = self.past[0].time_s if self.past else time.time()
        # Only files of this run are ever removed, those from before a resume included.
        self._own = {Path(t.event.path) for t in self.past if isinstance(t.event, Saving)}
        self._saved = {Path(t.event.path): t.event for t in self.past if isinstance(t.event, Saved)}

    def file_due(self, step: int) -> str | None:
        """The name, without its ending, of the adapter file to write after `step`; None for no file."""
        output, epoch = self._output, self._epoch(step)
        if step == self._plan.length.total_steps:
            return output.output_name
        epoch_ends = self._plan.length.ends_epoch(step)
        if epoch_ends and output.save_every_n_epochs and epoch % output.save_every_n_epochs == 0:
            return f"{output.output_name}-{epoch:06d}"
        if output.save_every_n_steps and step % output.save_every_n_steps == 0:
            return self.step_name(step)
        return None

    def samples_due(self, step: int) -> bool:
        """Whether pictures are to be drawn after `step`."""
        sample, epoch = self._plan.config.sample, self._epoch(step)
        if step == 0:
            return sample.sample_at_first
        if step == self._plan.length.total_steps and sample.sample_at_end:
            return True
        epoch_ends = self._plan.length.ends_epoch(step)
        by_epoch = epoch_ends and sample.sample_every_n_epochs and epoch % sample.sample_every_n_epochs == 0
        return bool(by_epoch or (sample.sample_every_n_steps and step % sample.sample_every_n_steps == 0))

    def step_name(self, step: int) -> str:
        return f"{self._output.output_name}-step{step:08d}"

    def save(self, name: str, step: int) -> None:
        """Writes the adapter as it is after `step`, and its moving average where there is one, each read back and
        compared; removes files that are not kept."""
        with self.engine.judged():
            self._save(name, step)
        if self.engine.average is not None:
            with self.engine.average.applied():
                self._save(f"{name}{AVERAGE}", step)
        self._remove_old()

    def _save(self, name: str, step: int) -> None:
        began = time.perf_counter()
        path = self._output.output_dir / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = adapter_metadata(
            self._plan.config,
            self._plan,
            step=step,
            epoch=self._epoch(step),
            started_s=self._started_s,
            finished_s=time.time(),
            model_hashes=self.hashes.result(),
        )
        path = self._untaken(path)
        self.recorder.write(Saving(str(path)))
        self._own.add(path)
        save_adapter(path, self.engine.adapter.kohya_state_dict(), metadata, self._output.save_precision)
        difference = compare_with_live(path, self.engine.adapter)
        if not difference <= _TOLERANCE[self._output.save_precision]:
            raise LoratoryError(
                f"{path} was written, but read back it does not give the network that was trained (relative "
                f"difference {difference:.2g}).",
                hint='Check the disk, and whether the weights outgrew the format: output.save_precision = "float".',
                exit_code=FAILED,
            )
        took_s = time.perf_counter() - began
        self._saved[path] = Saved(step, self._epoch(step), str(path), path.stat().st_size, difference, took_s)
        self.recorder.write(self._saved[path])

    def _untaken(self, path: Path) -> Path:
        """`path`, or, where a file of another run has come to lie there since this one began, one beside it."""
        if path in self._own or self._output.overwrite or not path.exists():
            return path
        instead = path.with_name(f"{path.stem}-{self.run.path.name[-15:]}.safetensors")
        self.recorder.write(
            Notice("warning", f"{path} was written by another run meanwhile; this one is saved as {instead.name}.")
        )
        return instead

    def draw_samples(self, step: int) -> None:
        """Draws every prompt of the config; each PNG carries what it was drawn with.

        A picture that cannot be drawn is a warning: the training is worth more than its previews. One that has no room
        on the disk waits for it, as all files of a run do. A request to stop ends the drawing.
        """
        self._draw_all([(index, prompt) for index, prompt in enumerate(self._plan.prompts)], step, asked=False)

    def draw_asked(self, line: str, step: int) -> bool:
        """Draws a prompt with kohya's flags that somebody asked for, or those of the config where `line` is empty.

        The pictures lie beside all others there are. False where there is nothing to draw; a Notice says why.
        """
        if line.strip():
            try:
                prompts = [(-1, parse_prompt(line, default_prompt(self._plan.config)))]
                refuse_samplers([prompt for _, prompt in prompts], self.engine.base.info)
            except LoratoryError as error:
                self.recorder.write(Notice("warning", f"Nothing was drawn: {error.message} {error.hint}".strip()))
                return False
        else:
            prompts = list(enumerate(self._plan.prompts))
        if not prompts:
            self.recorder.write(Notice("warning", "Nothing was drawn: the config has no prompts ([sample] prompts)."))
            return False
        self._draw_all(prompts, step, asked=True)
        return True

    def _draw_all(self, prompts: Sequence[tuple[int, Prompt]], step: int, *, asked: bool) -> None:
        """Draws numbered prompts. asked: into files that are not there yet."""
        with self.engine.judged():
            for done, (index, prompt) in enumerate(prompts):
                if self.control.waits("stop"):
                    return
                self.recorder.write(Phase("drawing samples", done, len(prompts)))
                began = time.perf_counter()
                path = self._picture_path(step, index, prompt.seed, asked=asked)
                try:
                    picture = self._draw(prompt)
                    self.recorder.patiently(
                        lambda picture=picture, prompt=prompt, path=path: self._write(picture, prompt, path, step),
                        "a picture",
                    )
                except Exception as error:
                    if is_full_disk(error):  # somebody asked for the end while the run waited for room
                        raise
                    if self.engine.device.type == "cuda":
                        torch.cuda.empty_cache()
                    reason = error if isinstance(error, LoratoryError) else f"{type(error).__name__}: {error}"
                    message = f"“{prompt.text}” could not be drawn: {reason}"
                    self.recorder.write(Notice("warning", message))
                    continue
                took_s = time.perf_counter() - began
                self.recorder.write(
                    Sampled(
                        step=step,
                        epoch=self._epoch(step),
                        path=str(path.relative_to(self.run.path)),
                        prompt=prompt.text,
                        index=index,
                        seed=prompt.seed,
                        took_s=took_s,
                    )
                )

    def _picture_path(self, step: int, index: int, seed: int, *, asked: bool) -> Path:
        if not asked:
            return self.run.samples / f"step{step:08d}-{index:02d}-{seed}.png"
        which = "own" if index < 0 else f"{index:02d}"
        paths = (self.run.samples / f"step{step:08d}-asked{n}-{which}-{seed}.png" for n in itertools.count(1))
        return next(path for path in paths if not path.exists())

    def _draw(self, prompt: Prompt) -> Image.Image:
        (image,) = draw(
            self.engine.base,
            [prompt],
            clip_skip=self._plan.config.model.clip_skip,
            max_token_length=self._plan.config.caption.max_token_length,
            weighted_captions=self._plan.config.caption.weighted_captions,
            device=self.engine.device,
            dtype=self.engine.dtype,
        )
        return image

    def _write(self, picture: Image.Image, prompt: Prompt, path: Path, step: int) -> None:
        path.parent.mkdir(exist_ok=True)
        with atomic.replacing(path, durable=False) as temporary:
            info = PngInfo()
            info.add_text("parameters", parameters_text(prompt, f"{self._output.output_name} at step {step}"))
            picture.save(temporary, "PNG", pnginfo=info)

    def _epoch(self, step: int) -> int:
        return self._plan.length.epoch_of(step)

    def _remove_old(self) -> None:
        """Keeps the last n epochs and steps of files, as save_last_n_epochs and save_last_n_steps say."""
        output = self._output
        stems = {p: (p.stem.removesuffix(AVERAGE), s) for p, s in self._saved.items()}
        epochs = {p: s.epoch for p, (stem, s) in stems.items() if stem == f"{output.output_name}-{s.epoch:06d}"}
        every = output.save_every_n_steps or 1  # files saved on request, between these, stay
        steps = {p: s.step for p, (stem, s) in stems.items() if stem == self.step_name(s.step) and s.step % every == 0}
        for numbers, last in ((epochs, output.save_last_n_epochs), (steps, output.save_last_n_steps)):
            for path, number in numbers.items():
                if last and number <= max(numbers.values()) - last:
                    path.unlink(missing_ok=True)
                    del self._saved[path]


def refuse_overwriting(config: Config, past: Sequence[Timed] | None) -> None:
    """Raises LoratoryError when a run's files cannot be written, or exist and are not its own.

    past: what the run has told of its files so far; None for one that is about to begin.
    """
    output = config.output
    try:
        output.output_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output.output_dir):
            pass
    except OSError as error:
        raise LoratoryError(
            f"output.output_dir: adapters cannot be written to {output.output_dir}: {error.strerror}.",
            hint="Choose another folder.",
        ) from error
    own = {Path(t.event.path) for t in past or () if isinstance(t.event, Saving)}
    refuse_foreign_files(config, own)


def remove_leftovers(config: Config) -> None:
    """Removes half-written adapter files of this output name, which a killed process left."""
    for numbered in ("", AVERAGE, "-[0-9][0-9][0-9][0-9][0-9][0-9]*", "-step[0-9]*"):
        name = f"{glob.escape(config.output.output_name)}{numbered}.safetensors"
        atomic.remove_leftovers(config.output.output_dir, name)


def start_hashing(info: ModelInfo) -> "Future[dict[str, str]]":
    """Computes `model_hashes` on a thread: a file of 7 GB takes seconds, and only the first save waits for them."""
    future: Future[dict[str, str]] = Future()

    def work() -> None:
        try:
            future.set_result(model_hashes(info))
        except OSError as error:
            future.set_exception(error)

    threading.Thread(target=work, name="hashing", daemon=True).start()
    return future


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
