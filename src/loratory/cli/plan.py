"""`loratory plan`: the true numbers of a run before it starts."""

from pathlib import Path
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from loratory.cli import output
from loratory.cli.progress import spoken_bytes
from loratory.config.load import load_config

_FAMILY = {"sd1": "Stable Diffusion 1.x", "sd2": "Stable Diffusion 2.x", "sdxl": "SDXL"}
_PART = {
    "unet": "UNet",
    "text_encoder": "text encoder",
    "text_encoder_1": "text encoder 1",
    "text_encoder_2": "text encoder 2",
}


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting, e.g. training.seed=7.")
@click.option("--captions", is_flag=True, help="Also show ten draws of one caption of each concept folder.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(config: Path, overrides: tuple[str, ...], captions: bool, as_json: bool) -> None:
    """What CONFIG would train, for how long, and what it needs on disk. Exits with 2 if it cannot work."""
    settings = load_config(config, overrides)
    with output.working("reading pictures and model"):
        from loratory.training.plan import make_plan  # imports torch, which takes seconds

        made = make_plan(settings)
    summary = _summary(made)
    if captions:
        summary["captions"] = _draws(made)
    if as_json:
        output.data_json(summary)
    else:
        _print(made, summary)


def _summary(made: Any) -> dict[str, Any]:
    info, length = made.info, made.length
    folders = [folder for folder in made.dataset.folders if not folder.is_reg]
    return {
        "model": {
            "path": str(info.path),
            "family": info.family,
            "prediction_type": info.prediction_type,
            "zero_terminal_snr": info.zero_terminal_snr,
            "reasons": list(info.reasons),
        },
        "folders": [
            {
                "name": folder.path.name,
                "images": len(folder.images),
                "repeats": folder.repeats,
                "per_epoch": len(folder.images) * folder.repeats,
                "exposure": exposure,
            }
            for folder, exposure in zip(folders, length.exposures, strict=True)
        ],
        "buckets": [{"width": w, "height": h, "visits_per_epoch": count} for (w, h), count in made.buckets],
        "batches_per_epoch": made.batches_per_epoch,
        "steps_per_epoch": made.steps_per_epoch,
        "epochs": length.epochs,
        "total_steps": length.total_steps,
        "network": [
            {
                "part": part.name,
                "learning_rate": part.lr if part.modules else 0.0,
                "modules": part.modules,
                "parameters": part.parameters,
            }
            for part in made.parts
        ],
        "saves": made.saves,
        "save_bytes": made.save_bytes,
        "state_bytes": made.state_bytes,
        "disk_bytes": made.disk_bytes,
        "warnings": list(made.warnings),
        "findings": [
            {"rule": f.rule, "severity": f.severity, "path": str(f.path or ""), "message": f.message}
            for f in made.dataset.findings
        ],
    }


def _draws(made: Any, count: int = 10) -> dict[str, list[str]]:
    """Captions of the first picture of each folder as `count` epochs would train them."""
    from loratory.dataset.captions import draw_caption

    first: dict[str, int] = {}
    for index, image in enumerate(made.images):
        first.setdefault(image.folder, index)
    return {
        f"{folder}/{made.images[index].path.name}": [
            draw_caption(
                made.images[index].caption,
                made.images[index].treatment.caption,
                seed=made.config.training.seed,
                epoch=epoch,
                visit=(index, 0),
                step=made.length.epoch_start(epoch) if epoch <= made.length.epochs else made.length.total_steps,
                max_steps=made.length.total_steps,
            )
            for epoch in range(1, count + 1)
        ]
        for folder, index in first.items()
    }


def _print(made: Any, summary: dict[str, Any]) -> None:
    config = made.config
    accumulation = config.training.gradient_accumulation_steps
    _fact("model", f"{made.info.path.name} · {_FAMILY[made.info.family]} · {_prediction(made.info)}")
    for reason in made.info.reasons:
        _fact("", reason)

    output.data("")
    table = _table("concept folder", "images", "repeats", "per epoch", "exposure")
    for folder in summary["folders"]:
        table.add_row(
            Text(output.one_line(folder["name"])),
            str(folder["images"]),
            str(folder["repeats"]),
            str(folder["per_epoch"]),
            f"{folder['exposure']:.0f}",
        )
    output.show(table)

    output.data("")
    table = _table("bucket", "visits", "batches")
    for (width, height), count in made.buckets:
        table.add_row(f"{width}x{height}", str(count), str(-(-count // config.training.train_batch_size)))
    output.show(table)

    output.data("")
    batch = f"batch {config.training.train_batch_size}" + (f" x {accumulation}" if accumulation > 1 else "")
    _fact(
        "steps",
        f"{_count(made.images_per_epoch, 'image')} an epoch, {_count(made.batches_per_epoch, 'batch', 'batches')}, "
        f"{_count(made.steps_per_epoch, 'step')} at {batch}",
    )
    _fact("", f"{_count(made.length.epochs, 'epoch')}, {_count(made.length.total_steps, 'step')} in all")

    output.data("")
    table = _table("trained", "modules", "parameters", "rate", "rank", "scale")
    for part in made.parts:
        rank, scale = _sizes(made, part)
        rate = f"{part.lr:g}" if part.modules else "not trained"
        table.add_row(_PART[part.name], str(part.modules), f"{part.parameters:,}", rate, rank, scale)
    output.show(table)

    output.data("")
    times = "once" if made.saves == 1 else f"{made.saves} times"
    _fact("saves", f"{times}, {spoken_bytes(made.save_bytes)} each, in {config.output.output_dir}")
    _fact("disk", f"at most {spoken_bytes(made.disk_bytes)}, states for resuming included")
    for picture, drawn in summary.get("captions", {}).items():
        output.data(f"\n{output.one_line(picture)} as it is trained in ten epochs")
        for text in drawn:
            output.data(f"  {output.one_line(text) or '(empty)'}")
    for sentence in summary["warnings"]:
        output.say(output.one_line(f"warning: {sentence}"), "yellow")
    for finding in summary["findings"]:
        sentence = f"{finding['severity']}: {finding['message']}"
        output.say(output.one_line(sentence), "yellow" if finding["severity"] != "note" else "")


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _prediction(info: Any) -> str:
    kind = "v-prediction" if info.prediction_type == "v_prediction" else "noise prediction"
    return kind + (", zero terminal SNR" if info.zero_terminal_snr else "")


def _sizes(made: Any, part: Any) -> tuple[str, str]:
    """Ranks and the factors alpha / rank of a part's modules, e.g. `32, conv 16` and `1, conv 0.0625`."""
    mine = [target for target in made.targets if target.component in part.components]
    linear = next((target for target in mine if not target.is_conv), None)
    conv = next((target for target in mine if target.is_conv), None)
    rank = [str(linear.rank)] if linear else []
    scale = [f"{linear.scale:.4g}"] if linear else []
    if conv:
        rank.append(f"conv {conv.rank}")
        scale.append(f"conv {conv.scale:.4g}")
    return ", ".join(rank), ", ".join(scale)


def _table(first: str, *rest: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column(first)
    for name in rest:
        table.add_column(name, justify="right")
    return table


def _fact(name: str, text: str) -> None:
    output.data(f"{name:<7}{output.one_line(text)}")
