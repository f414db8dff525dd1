"""Runs the whole program on the real SD 1.5 and SDXL architectures, with random weights.

    python bench/real_architectures.py sd1            # about 2 GB of disk and 6 GB of memory
    python bench/real_architectures.py sdxl           # about 7 GB of disk and 16 GB of memory

Writes a checkpoint in the original single-file layout, fp16, trains a LoRA on it for a few steps with `loratory train`,
and compares the names in the file it saved with those that sd-scripts writes. What random weights cannot show is
whether anything useful is learnt; size, speed, memory and names do not depend on the values. Exit code 1 when the names
differ. Not for Windows, which does not say how much memory a process has used.
"""

import argparse
import gzip
import json
import math
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import tomli_w
import torch
from PIL import Image

from loratory.adapters.files import read_adapter
from loratory.config.schema import ModelSettings, NoiseSettings
from loratory.models.components import Component, component_names, family_config
from loratory.models.detect import ModelInfo, detect_model
from loratory.models.export import export_single_file
from loratory.models.load import VAE_SCALES, BaseModel, build_component, load_base_model
from loratory.models.recognize import Family
from loratory.runs.events import Phase, Saved, Started, Step, Timed, decode

TESTS = Path(__file__).parents[1] / "tests"
# Module names of networks that sd-scripts made for these architectures.
REFERENCE_KEYS = {"sd1": "keys_sd15_lora_dim8.json.gz", "sdxl": "keys_sdxl_lora.json.gz"}
RANDOM_MODELS = ("sd1", "sdxl", "tiny")
PICTURES = 4


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    # The reference has one list per architecture: SDXL's knows only a short second text encoder, and tiny's is short.
    unet_only = options.unet_only or options.model != "sd1"
    with tempfile.TemporaryDirectory(prefix="loratory-bench-", dir=options.temporary) as name:
        folder = Path(name)
        checkpoint = write_model(folder / f"{options.model}.safetensors", options.model)
        print(f"checkpoint        {checkpoint.stat().st_size / 1e9:.2f} GB, random weights", flush=True)
        write_pictures(folder / "set", PICTURES, options.resolution)
        config = write_config(folder, checkpoint, options, unet_only=unet_only)
        events, peak_bytes = run_program(config, options.set)
        report(events, peak_bytes)
        saved = next(Path(timed.event.path) for timed in events if isinstance(timed.event, Saved))
        return compare_names(saved, "sdxl" if options.model == "sdxl" else "sd1", unet_only=unet_only)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=RANDOM_MODELS, help="tiny: SD 1.5's structure with few channels, UNet only")
    parser.add_argument("--resolution", type=int, default=512, help="pixels, a multiple of 64")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--precision", choices=["no", "bf16", "fp16"], default="bf16")
    parser.add_argument("--unet-only", action="store_true", help="no network for the text encoder; so for SDXL always")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any other setting")
    parser.add_argument("--temporary", type=Path, metavar="FOLDER", help="where to write, for the time it takes")
    return parser.parse_args(arguments)


def write_model(path: Path, name: str) -> Path:
    """Writes the checkpoint `name`, one of RANDOM_MODELS, to `path`."""
    if name == "tiny":
        write_tiny_model(path)
        return path
    # In a process of its own, so that none of its memory is counted, or missing, when training starts.
    writer = multiprocessing.get_context("spawn").Process(target=write_random_model, args=(path, name))
    writer.start()
    writer.join()
    if writer.exitcode:
        sys.exit(1)
    return path


def write_random_model(path: Path, family: Family) -> None:
    """Writes a checkpoint of the published architecture with random fp16 weights to `path`."""
    generator = torch.Generator().manual_seed(0)
    parts = {name: _random_component(name, family, generator) for name in component_names(family)}
    export_single_file(
        BaseModel(
            info=ModelInfo("random", path, "single_file", family, "epsilon", zero_terminal_snr=False, reasons=()),
            unet=parts["unet"],
            vae=parts["vae"],
            text_encoders=[parts[name] for name in parts if name.startswith("text_encoder")],
            tokenizers=[],
            identity={},
            vae_scale=VAE_SCALES[family],
        ),
        path,
    )


def _random_component(component: Component, family: Family, generator: torch.Generator) -> Any:
    """Matrices and kernels uniform with variance 1 / fan-in, scales 1, biases 0: activations stay finite."""
    module = build_component(component, family_config(family, component))
    weights: dict[str, torch.Tensor] = {}
    for name, empty in module.state_dict().items():
        values = torch.empty(empty.shape, dtype=torch.float16)
        if values.dim() < 2:
            weights[name] = values.fill_(1.0 if name.endswith("weight") else 0.0)
        else:
            limit = math.sqrt(3.0 / values[0].numel())
            weights[name] = values.uniform_(-limit, limit, generator=generator)
    module.load_state_dict(weights, assign=True)
    return module


def write_tiny_model(path: Path) -> None:
    """Writes the tests' small model of SD 1.5's structure to `path`."""
    sys.path.insert(0, str(TESTS))
    from tiny_models import shared_tiny_model

    settings = ModelSettings(pretrained_model_name_or_path=str(shared_tiny_model("sd1")))
    export_single_file(load_base_model(detect_model(settings, NoiseSettings()), settings), path)


def write_pictures(folder: Path, count: int, resolution: int) -> None:
    """Writes `count` square pictures of noise with captions, in one concept folder below `folder`."""
    random = np.random.default_rng(0)
    concept = folder / "1_fox"
    concept.mkdir(parents=True)
    for index in range(count):
        pixels = random.integers(0, 256, (resolution, resolution, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(concept / f"{index:03d}.png")
        (concept / f"{index:03d}.txt").write_text(f"fox, animal, red fur, picture {index}", "utf-8")


def write_config(folder: Path, checkpoint: Path, options: argparse.Namespace, *, unet_only: bool) -> Path:
    """Writes the configuration of the run to `folder` and returns its path."""
    path = folder / "config.toml"
    resolution = options.resolution
    config = {
        "model": {"pretrained_model_name_or_path": str(checkpoint)},
        "dataset": {
            "train_data_dir": "set",
            "resolution": resolution,
            "min_bucket_reso": min(resolution, 256),
            "max_bucket_reso": max(resolution, 1024),
        },
        "network": {"network_dim": 8, "network_alpha": 8, "network_train_unet_only": unet_only},
        "training": {
            "train_batch_size": options.batch,
            "max_train_steps": options.steps,
            "mixed_precision": options.precision,
        },
        "output": {"output_name": "bench"},
    }
    path.write_text(tomli_w.dumps(config), "utf-8")
    return path


def run_program(config: Path, overrides: list[str]) -> tuple[list[Timed], int]:
    """Runs `loratory train` on `config` and returns its events and the most memory it held, in bytes."""
    command = [sys.executable, "-m", "loratory", "train", str(config), "--json"]
    for override in overrides:
        command += ["--set", override]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    events = [timed for line in process.stdout if (timed := decode(line)) is not None]
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(process.returncode)
    # Kibibytes, but bytes on macOS.
    return events, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def report(events: list[Timed], peak_bytes: int) -> None:
    """Prints what the events say of the time each part took."""
    loading, *_ = (t for t in events if isinstance(t.event, Phase) and t.event.name == "loading the base model")
    cached = [
        (t.time_s, t.event.done) for t in events if isinstance(t.event, Phase) and t.event.name == "caching latents"
    ]
    # Each of these comes when pictures are done, so the time of the first is that of the others.
    (first_s, first), (last_s, last) = cached[0], cached[-1]
    picture_s = (last_s - first_s) / (last - first)
    started = next(t for t in events if isinstance(t.event, Started))
    steps = [t.event for t in events if isinstance(t.event, Step)]
    device = started.event.device if isinstance(started.event, Started) else ""
    print(f"device            {device}")
    print(f"load              {last_s - picture_s * last - loading.time_s:.1f} s")
    print(f"cache latents     {picture_s:.2f} s a picture")
    print(f"inject and place  {started.time_s - last_s:.1f} s")
    print(f"first step        {steps[0].step_s:.2f} s")
    if len(steps) > 1:
        further_s = [step.step_s for step in steps[1:]]
        print(
            f"further steps     {median(further_s):.2f} s, median of {len(further_s)}; fastest {min(further_s):.2f} s"
        )
    print(f"peak memory       {peak_bytes / 2**30:.1f} GiB")
    print(f"losses            {', '.join(f'{step.loss:.3f}' for step in steps)}")


def compare_names(saved: Path, family: Family, *, unet_only: bool) -> int:
    """Prints whether the tensors in `saved` have the names that sd-scripts gives them; 0 when they have, else 1."""
    modules = json.loads(gzip.decompress((TESTS / "data" / REFERENCE_KEYS[family]).read_bytes()))
    roles = ("alpha", "lora_down.weight", "lora_up.weight")
    chosen = [module for module in modules if module.startswith("lora_unet") or not unet_only]
    expected = {f"{module}.{role}" for module in chosen for role in roles}
    found = read_adapter(saved).state_dict.keys()
    missing, unknown = sorted(expected - found), sorted(found - expected)
    print(f"names             {len(found)} tensors, {len(missing)} missing, {len(unknown)} unknown")
    for name in (missing + unknown)[:6]:
        print(f"                  {name}")
    return 1 if missing or unknown else 0


if __name__ == "__main__":
    sys.exit(main())
