"""`loratory plan`: the true numbers of a run before it starts."""

import shutil
from pathlib import Path
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from loratory.cli import output
from loratory.config.load import load_config
from loratory.terminal.curves import draw_curve
from loratory.wording import spoken_bytes, spoken_time

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
@click.option("--measure", is_flag=True, help="Also load the model and try a few steps, for time and memory.")
@click.option("--processes", default=1, metavar="N", help="Count for N processes that train together (torchrun).")
@click.option("--ascii", "ascii_only", is_flag=True, help="Draw the curves in plain ASCII.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(
    config: Path,
    overrides: tuple[str, ...],
    captions: bool,
    measure: bool,
    processes: int,
    ascii_only: bool,
    as_json: bool,
) -> None:
    """What CONFIG would train, for how long, what it needs, and advice about its settings.

    Exits with 2 if it cannot work.
    """
    settings = load_config(config, overrides)
    with output.working("reading pictures and model"):
        from loratory.training.plan import make_plan  # imports torch, which takes seconds
        from loratory.training.plan_report import caption_draws, plan_report

        made = make_plan(settings, processes)
    summary = plan_report(made)
    if captions:
        summary["captions"] = caption_draws(made)
    if measure:
        summary["measured"] = _measure(made)
    if as_json:
        output.data_json(summary)
    else:
        _print(made, summary, ascii_only=ascii_only)


def _measure(made: Any) -> dict[str, Any]:
    from loratory.training.measure import Measured, measure
    from loratory.training.plan_report import measured_report

    with output.working("loading") as tell:
        for progress in measure(made):
            if isinstance(progress, Measured):
                return measured_report(made, progress)
            tell(f"{progress.name} {progress.done}/{progress.total}" if progress.total > 1 else progress.name)
    raise AssertionError("a trial run ends with its result")


def _print(made: Any, summary: dict[str, Any], *, ascii_only: bool) -> None:
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
    for part in summary["network"]:
        rank, scale = _sizes(part)
        rate = f"{part['learning_rate']:g}" if part["modules"] else "not trained"
        table.add_row(_PART[part["part"]], str(part["modules"]), f"{part['parameters']:,}", rate, rank, scale)
    output.show(table)

    regularization = summary["regularization"]
    if regularization:
        output.data("")
        _fact(
            "prior",
            f"{_count(regularization['visits_per_epoch'], 'visit')} an epoch to "
            f"{regularization['images']} regularization pictures, weighted {regularization['weight']:g}",
        )
        fewest, most = regularization["fewest_visits"], regularization["most_visits"]
        seen = f"{fewest} times" if fewest == most else f"{fewest} to {most} times"
        _fact("", f"{regularization['used']} of them are used in this run, each {seen}")
    if made.held_back:
        _fact("held", f"{_count(len(made.held_back), 'picture')} held back for the validation loss")

    curves, width = summary["curves"], min(shutil.get_terminal_size().columns, 80)
    ascii_only = ascii_only or not output.is_unicode()
    output.data("\nlearning rate over the run, as a share of each part's rate")
    labels = ("step 0", f"step {made.length.total_steps}")
    rates = curves["learning_rate_factor"]
    output.data("\n".join(draw_curve(rates, width, 5, x_labels=labels, ascii_only=ascii_only)))
    weights = curves["loss_weight_by_timestep"]
    if max(weights) - min(weights) > 0.05 * max(weights):
        output.data("\nhow much a timestep counts: weight of its loss x how often it is drawn")
        labels = ("0: little noise", "999: pure noise")
        spread = min(weights) > 0 and max(weights) / min(weights) > 20
        output.data("\n".join(draw_curve(weights, width, 6, x_labels=labels, log=spread, ascii_only=ascii_only)))

    output.data("")
    times = "once" if made.saves == 1 else f"{made.saves} times"
    _fact("saves", f"{times}, {spoken_bytes(made.save_bytes)} each, in {config.output.output_dir}")
    _fact("disk", f"at most {spoken_bytes(made.disk_bytes)}, states for resuming included")
    if measured := summary.get("measured"):
        bucket = "x".join(map(str, measured["bucket"]))
        spare = f" of {spoken_bytes(measured['free_bytes'])}" if measured["free_bytes"] else ""
        _fact("time", f"{measured['step_s']:.3g} s a step of the largest bucket, {bucket}, on {measured['device']}")
        _fact("", f"about {spoken_time(measured['expected_s'])} in all, {measured['load_s']:.0f} s before step 1")
        _fact("memory", f"{spoken_bytes(measured['peak_bytes'])}{spare}")
    for picture, drawn in summary.get("captions", {}).items():
        output.data(f"\n{output.one_line(picture)} as it is trained in ten epochs")
        for text in drawn:
            output.data(f"  {output.one_line(text) or '(empty)'}")
    for sentence in summary["warnings"]:
        output.say(output.one_line(f"warning: {sentence}"), "yellow")
    for each in summary["advice"]:
        style = "yellow" if each["severity"] == "warning" else ""
        output.say(output.one_line(f"{each['severity']}: {each['message']} [{each['rule']}]"), style)
    for finding in summary["findings"]:
        sentence = f"{finding['severity']}: {finding['message']}"
        output.say(output.one_line(sentence), "yellow" if finding["severity"] != "note" else "")


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _prediction(info: Any) -> str:
    kind = "v-prediction" if info.prediction_type == "v_prediction" else "noise prediction"
    return kind + (", zero terminal SNR" if info.zero_terminal_snr else "")


def _sizes(part: dict[str, Any]) -> tuple[str, str]:
    """Ranks and the factors alpha / rank of a part's modules, e.g. `32, conv 16` and `1, conv 0.0625`."""
    if part["rank_varies"]:
        return "by layer", "by layer"
    rank = [str(part["rank"])] if part["rank"] else []
    scale = [f"{part['scale']:.4g}"] if part["rank"] else []
    if part["conv_rank"]:
        rank.append(f"conv {part['conv_rank']}")
        scale.append(f"conv {part['conv_scale']:.4g}")
    return ", ".join(rank), ", ".join(scale)


def _table(first: str, *rest: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column(first)
    for name in rest:
        table.add_column(name, justify="right")
    return table


def _fact(name: str, text: str) -> None:
    output.data(f"{name:<7}{output.one_line(text)}")
