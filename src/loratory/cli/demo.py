"""`loratory demo`: the main job on the embedded model and pictures, in about a minute on a CPU."""

import shutil
import time
from pathlib import Path

import click

from loratory import atomic
from loratory.cli import output
from loratory.cli.train import train_here
from loratory.config.load import dump_config, load_config
from loratory.config.schema import Config
from loratory.errors import FAILED, LoratoryError
from loratory.runs.store import RunDirectory
from loratory.wording import spoken_bytes, spoken_time

_MATERIAL = Path(__file__).parent.parent / "demo"


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="Where to work.  [default: demo; demo-tour with --tour]")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting of the training.")
@click.option("--tour", is_flag=True, help="Go the whole way, one command at a time, each shown and explained.")
def demo(out: Path | None, overrides: tuple[str, ...], tour: bool) -> int:
    """Train a LoRA on the embedded model and pictures, and draw the same prompts without and with it.

    Everything lands in the folder --out, the config and the pictures included: copy it to start a set of your own.
    """
    if tour:
        from loratory.cli.demo_tour import walk

        return walk(_unpack(out or Path("demo-tour"), raw=True), overrides)
    out = out or Path("demo")
    began = time.monotonic()
    config_path = _unpack(out)
    config = load_config(config_path, ("output.overwrite=true", *overrides))
    run = RunDirectory.create(config.output.runs_dir, config.output.output_name, dump_config(config))
    finished = train_here(config, run, as_json=False)
    if finished.status != "done":
        return FAILED
    adapter = config.output.output_dir / f"{config.output.output_name}.safetensors"
    sheet = out / "before-after.png"
    with output.working("drawing the same prompts without and with the adapter"):
        _draw_sheet(config, adapter, sheet)
    output.say(f"adapter  {adapter} ({spoken_bytes(adapter.stat().st_size)})")
    output.say(f"sheet    {sheet}")
    output.say(f"config   {config_path}: copy it to start your own")
    output.say(f"done in {spoken_time(time.monotonic() - began)}")
    output.data(str(sheet))
    return 0


def _unpack(out: Path, *, raw: bool = False) -> Path:
    """Copies the demo's config and pictures to `out`, keeping files that are there, and returns the config's path.

    raw: the pictures go to `out`/originals, as if they still had to be prepared.
    """
    if out.exists() and not out.is_dir():
        raise LoratoryError(f"{out} is a file; the demo needs a folder.", hint="Choose another with --out.")
    # Both in one folder would train each picture twice as often as either says.
    if (out / ("pictures/10_hrt" if raw else "originals")).exists():
        other = "the demo without --tour" if raw else "the tour"
        raise LoratoryError(f"{out} holds {other} already.", hint="Choose another folder with --out.")
    for source in sorted(_MATERIAL.rglob("*")):
        inner = source.relative_to(_MATERIAL)
        target = out / (Path("originals", inner.name) if raw and inner.parts[0] == "pictures" else inner)
        if source.is_dir() or target.exists() or source.suffix in (".py", ".pyc"):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic.replacing(target, durable=False) as temporary:
            shutil.copyfile(source, temporary)
    return out / "config.toml"


def _draw_sheet(config: Config, adapter_path: Path, sheet_path: Path) -> None:
    """Draws the config's prompts on a freshly loaded model, without and with the adapter read from its file."""
    from loratory.adapters.files import read_adapter
    from loratory.adapters.inject import inject
    from loratory.models.detect import detect_model
    from loratory.models.load import load_base_model
    from loratory.sampling.preview import draw
    from loratory.sampling.prompts import prompts_of
    from loratory.sampling.sheet import contact_sheet
    from loratory.training.device import compute_dtype, pick_device

    device = pick_device()
    base = load_base_model(detect_model(config.model, config.noise), config.model)
    adapter = inject(
        base.unet,
        base.text_encoders,
        base.info.family,
        config.network,
        seed=0,
        train_unet=config.trains_unet,
        train_text_encoder=config.trains_text_encoder,
    )
    adapter.load_kohya_state_dict(read_adapter(adapter_path).state_dict)
    prompts = prompts_of(config)
    rows = []
    for label, strength in (("without", 0.0), ("with", 1.0)):
        adapter.multiplier = strength
        pictures = draw(
            base,
            prompts,
            clip_skip=config.model.clip_skip,
            max_token_length=config.caption.max_token_length,
            weighted_captions=config.caption.weighted_captions,
            device=device,
            dtype=compute_dtype(config.training, device),
        )
        rows.append((label, pictures))
    title = f"{config.output.output_name}: same prompts, same seeds"
    sheet = contact_sheet(rows, [prompt.text for prompt in prompts], cell_px=256, title=title)
    with atomic.replacing(sheet_path) as temporary:
        sheet.save(temporary, "PNG")
