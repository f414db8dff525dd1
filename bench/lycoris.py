"""Trains one network of each type on the embedded model for a minute, and says what each costs and learns.

    python bench/lycoris.py                          # all of them; about 25 minutes
    python bench/lycoris.py --only lora loha --seconds 20
    python bench/lycoris.py --markdown               # the table of docs/lycoris.md

The set is the demo's: 24 pictures, of which a quarter is held back and never trained on. The loss is that of the held
back ones, at fixed timesteps with fixed noise, before and after. Each type trains at the rate that its presets and the
linter's advice give for AdamW, times the same factor of ten that the demo's rate has over a real model's. s/step: the
median. memory: what the process took at most while it trained, above what it had taken until then.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch

import loratory
from loratory.config.load import load_config
from loratory.runs.events import Validated
from loratory.telemetry.memory import peak_resident_bytes
from loratory.training.distributed import Ranks
from loratory.training.engine import Engine, assemble
from loratory.training.plan import make_plan
from loratory.training.update import take_step
from loratory.training.validate import validate
from loratory.training.windows import Windows

DEMO = Path(loratory.__file__).parent / "demo"
_COMMON = {
    "dataset.validation_split": 0.25,
    "dataset.validation_seed": 1,
    "optimizer.lr_scheduler": "constant_with_warmup",
    "training.max_train_steps": 100_000,
}


@dataclass(frozen=True)
class Trial:
    """One network. rate: of the UNet and the text encoder."""

    name: str
    settings: dict[str, object]
    rate: float = 1e-3


TRIALS = (
    Trial("lora", {"network_type": "lora"}),
    Trial("locon", {"network_type": "locon", "conv_dim": 8, "conv_alpha": 8}),
    Trial("locon, Tucker", {"network_type": "locon", "conv_dim": 8, "conv_alpha": 8, "use_tucker": True}),
    Trial("dora", {"network_type": "dora"}),
    Trial("loha", {"network_type": "loha", "network_dim": 8, "network_alpha": 8}),
    Trial("loha, DoRA", {"network_type": "loha", "network_dim": 8, "network_alpha": 8, "dora_wd": True}),
    Trial("lokr, factor -1", {"network_type": "lokr", "network_dim": 8, "network_alpha": 8}),
    Trial("lokr, factor 8, whole", {"network_type": "lokr", "factor": 8, "full_matrix": True}),
    Trial("dylora", {"network_type": "dylora", "block_size": 4}),
    Trial("glora", {"network_type": "glora"}),
    Trial("ia3", {"network_type": "ia3"}, 1e-2),
    Trial("diag-oft", {"network_type": "diag-oft", "network_dim": 8}),
    Trial("boft", {"network_type": "boft", "network_dim": 8}),
    Trial("full", {"network_type": "full"}, 1e-4),
    Trial("full, norms", {"network_type": "full", "train_norm": True}, 1e-4),
)


@dataclass(frozen=True)
class Outcome:
    """loss: of the held-back pictures."""

    name: str
    parameters: int
    file_bytes: int
    steps: int
    step_s: float
    memory_bytes: int
    loss_before: float
    loss_after: float


def measure(trial: Trial, seconds: float, folder: Path) -> Outcome:
    """Trains in this process for so long; what is measured is in `folder` afterwards too."""
    from loratory.adapters.files import save_adapter

    material = folder / "set"
    shutil.copytree(DEMO, material)
    overrides = _COMMON | {"optimizer.unet_lr": trial.rate, "optimizer.text_encoder_lr": trial.rate}
    overrides |= {f"network.{key}": value for key, value in trial.settings.items()}
    if "network_dim" in trial.settings or trial.settings["network_type"] in ("ia3", "full"):
        config_text = (material / "config.toml").read_text()
        kept = [line for line in config_text.splitlines() if not line.startswith(("network_dim", "network_alpha"))]
        (material / "config.toml").write_text("\n".join(kept))
    elif trial.settings["network_type"] == "lokr":
        overrides |= {"network.network_alpha": 16}
    config = load_config(material / "config.toml", [f"{key}={json.dumps(value)}" for key, value in overrides.items()])
    plan = make_plan(config)
    engine = next(each for each in assemble(plan, torch.device("cpu")) if isinstance(each, Engine))
    ranks = Ranks.join(engine.device)
    windows = Windows(engine, ranks, [])
    before = _loss(engine)
    memory_before = peak_resident_from_here()
    took: list[float] = []
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        step_began = time.perf_counter()
        take_step(engine, ranks, windows.take(len(took)), len(took))
        took.append(time.perf_counter() - step_began)
    windows.close()
    path = folder / "adapter.safetensors"
    save_adapter(path, engine.adapter.kohya_state_dict(), {}, "fp16")
    return Outcome(
        trial.name,
        sum(parameter.numel() for parameter in engine.parameters),
        path.stat().st_size,
        len(took),
        median(took),
        peak_resident_bytes() - memory_before,
        before,
        _loss(engine),
    )


def _loss(engine: Engine) -> float:
    return next(each.loss for each in validate(engine, 0, 1) if isinstance(each, Validated))


def peak_resident_from_here() -> int:
    """Lets the kernel forget the highest memory of this process (Linux), which loading and validating may have been."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_resident_bytes()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="types, by the start of their names")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long each trains")
    parser.add_argument("--markdown", action="store_true", help="print a table for docs/lycoris.md")
    parser.add_argument("--one", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:  # each in a process of its own: its memory is its own
        with tempfile.TemporaryDirectory(prefix="loratory-bench-") as folder:
            trial = next(trial for trial in TRIALS if trial.name == options.one)
            print(json.dumps(asdict(measure(trial, options.seconds, Path(folder)))))
        return 0
    outcomes: list[Outcome] = []
    for trial in TRIALS:
        if options.only and not any(trial.name.startswith(name) for name in options.only):
            continue
        command = [sys.executable, __file__, "--one", trial.name, "--seconds", str(options.seconds)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{trial.name}: {done.stderr[-2000:]}")
        outcomes.append(Outcome(**json.loads(done.stdout.splitlines()[-1])))
        print(row(outcomes[-1], outcomes[0], markdown=options.markdown), flush=True)
    return 0


def row(one: Outcome, first: Outcome, *, markdown: bool) -> str:
    cells = (
        f"{one.name:<22}",
        f"{one.parameters / 1e6:8.3f} M",
        f"{one.file_bytes / 1e6:7.2f} MB",
        f"{1000 * one.step_s:6.0f} ms",
        f"x{one.step_s / first.step_s:4.2f}",
        f"{one.memory_bytes / 1e6:6.0f} MB",
        f"{one.steps:5d}",
        f"{one.loss_before:.4f}",
        f"{one.loss_after:.4f}",
        f"{100 * (one.loss_after / one.loss_before - 1):+6.1f} %",
    )
    return "| " + " | ".join(cells) + " |" if markdown else "  ".join(cells)


if __name__ == "__main__":
    sys.exit(main())
