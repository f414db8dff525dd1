"""A plan as lines of text. Pure."""

from collections.abc import Mapping
from typing import Any, cast

from textual.content import Content

from loratory.config.schema import EXPOSURE, STYLE_EXPOSURE, Config
from loratory.terminal.curves import draw_curve
from loratory.tui.plan.findings import PlanFinding, counted
from loratory.tui.text import ASCII, Glyphs, fitted, plain, printable, wrapped
from loratory.wording import spoken_bytes, spoken_time

_FAMILY = {"sd1": "Stable Diffusion 1.x", "sd2": "Stable Diffusion 2.x", "sdxl": "SDXL"}
_PART = {
    "unet": "UNet",
    "text_encoder": "text encoder",
    "text_encoder_1": "text encoder 1",
    "text_encoder_2": "text encoder 2",
}
_STYLES = {"error": "bold $text-error", "warning": "$text-warning", "note": ""}
_MOST_FOLDERS = 12
_MOST_BUCKETS = 6
_MOST_FINDINGS = 12
_STYLE_RANGE = "30 to 40"


def finding_lines(findings: list[PlanFinding], width: int, *, is_planned: bool) -> list[Content]:
    """What there is to say of the settings, as many as can be read at once. is_planned: with all that a plan knows."""
    if not findings and not is_planned:
        return [plain(" pictures and model are not read yet", "$foreground-muted")]
    if not findings:
        return [plain(" nothing to say against these settings", "$foreground-muted")]
    lines = [plain(f" {counted(findings)}", "bold")]
    for each in findings[:_MOST_FINDINGS]:
        lines += _paragraph(f"{each.severity}: {each.message}", width, _STYLES[each.severity])
    if len(findings) > _MOST_FINDINGS:
        lines.append(plain(f" and {len(findings) - _MOST_FINDINGS} more", "$foreground-muted"))
    return lines


def plan_lines(plan: Mapping[str, Any], config: Config, width: int, glyphs: Glyphs) -> list[Content]:
    """The plan of `config`, as `plan_report` gives it, in lines of `width` cells."""
    lines = [*_run(plan, config, width), Content(""), *_exposure(plan, config, width, glyphs)]
    lines += [Content(""), *_buckets(plan, config, width), Content(""), *_network(plan, config, width)]
    lines += [*_regularization(plan, width), *_curves(plan, width, glyphs), Content(""), *_needs(plan, config, width)]
    return lines


def summary(plan: Mapping[str, Any]) -> str:
    """The plan in a few words."""
    return f"{_count(plan['total_steps'], 'step')}, {_count(plan['epochs'], 'epoch')}"


def _run(plan: Mapping[str, Any], config: Config, width: int) -> list[Content]:
    training, model = config.training, plan["model"]
    accumulation = training.gradient_accumulation_steps
    batch = f"batch {training.train_batch_size}" + (f" x {accumulation}" if accumulation > 1 else "")
    kind = "v-prediction" if model["prediction_type"] == "v_prediction" else "noise prediction"
    zero = ", zero terminal SNR" if model["zero_terminal_snr"] else ""
    said = [
        f"{_count(plan['epochs'], 'epoch')} of {_count(plan['steps_per_epoch'], 'step')}: "
        f"{_count(plan['total_steps'], 'step')} in all",
        f"{_count(plan['images_per_epoch'], 'image')} an epoch, at {batch}",
        f"{_FAMILY[model['family']]}, {kind}{zero}",
    ]
    lines = [plain(fitted(f" {said[0]}", width), "bold $text-accent")]
    return lines + [line for each in said[1:] for line in _paragraph(each, width)]


def _exposure(plan: Mapping[str, Any], config: Config, width: int, glyphs: Glyphs) -> list[Content]:
    """How often each picture of a folder is trained, beside the guide's advice."""
    is_style = config.dataset.goal == "style"
    advised = STYLE_EXPOSURE if is_style else EXPOSURE
    folders = cast("list[dict[str, Any]]", plan["folders"])
    highest = max([advised * 1.5, *(folder["exposure"] for folder in folders)])
    numbers = 33  # images, repeats, an epoch, exposure
    bar_width = max(0, min(30, width - numbers - 14 - 2))
    name_width = max(8, width - numbers - bar_width - 3)
    head = f" {fitted('concept folder', name_width)}{'images':>7}{'repeats':>8}{'an epoch':>9}{'exposure':>9}"
    lines = [plain(fitted(head, width), "bold $foreground-muted")]
    yardstick = round(advised / highest * bar_width)
    for folder in folders[:_MOST_FOLDERS]:
        filled = round(folder["exposure"] / highest * bar_width)
        bar = (glyphs.bar * filled).ljust(bar_width)
        if bar_width and filled <= yardstick < bar_width:
            bar = f"{bar[:yardstick]}|{bar[yardstick + 1 :]}"
        name = fitted(folder["name"], name_width, glyphs.ellipsis)
        counts = f"{folder['images']:>7}{folder['repeats']:>8}{folder['per_epoch']:>9}{folder['exposure']:>9.0f}"
        lines.append(Content.assemble(" ", name, printable(counts), " ", (printable(bar), "$text-accent")))
    if len(folders) > _MOST_FOLDERS:
        lines.append(plain(f" and {len(folders) - _MOST_FOLDERS} more", "$foreground-muted"))
    advice = f"the guide: {_STYLE_RANGE} for a style" if is_style else "the guide: about 100 for each picture"
    return lines + _paragraph(advice + (f" (| at {advised:.0f})" if bar_width else ""), width, "$foreground-muted")


def _buckets(plan: Mapping[str, Any], config: Config, width: int) -> list[Content]:
    size = config.training.train_batch_size
    buckets = sorted(cast("list[dict[str, int]]", plan["buckets"]), key=lambda each: -each["visits_per_epoch"])
    shown = [
        f"{each['width']}x{each['height']} {each['visits_per_epoch']}"
        + (f" ({_count(-(-each['visits_per_epoch'] // size), 'batch', 'batches')})" if size > 1 else "")
        for each in buckets[:_MOST_BUCKETS]
    ]
    more = f", and {len(buckets) - _MOST_BUCKETS} more" if len(buckets) > _MOST_BUCKETS else ""
    held = f"; {_count(plan['held_back'], 'picture')} held back for the validation loss" if plan["held_back"] else ""
    return _paragraph(f"buckets, with their visits an epoch: {', '.join(shown)}{more}{held}", width)


def _network(plan: Mapping[str, Any], config: Config, width: int) -> list[Content]:
    """What is trained, and how alpha scales it, which is much like another learning rate."""
    lines = [
        plain(fitted(f" {'trained':<16}{'modules':>7}{'parameters':>14}{'rate':>9}", width), "bold $foreground-muted")
    ]
    for part in cast("list[dict[str, Any]]", plan["network"]):
        rate = f"{part['learning_rate']:>9.3g}" if part["modules"] else "  not trained"
        lines.append(
            plain(fitted(f" {_PART[part['part']]:<16}{part['modules']:>7}{part['parameters']:>14,}{rate}", width))
        )
    root = "sqrt(rank)" if config.network.rs_lora else "rank"
    for part in [each for each in cast("list[dict[str, Any]]", plan["network"]) if each["modules"]][:1]:
        for kind, name in (("", "alpha"), ("conv_", "convolutions: alpha")):
            if part[f"{kind}rank"]:
                lines += _paragraph(_scale(part, kind, name, root), width)
        if part["rank_varies"]:
            lines += _paragraph("ranks and alphas differ between layers", width)
    return lines


def _scale(part: Mapping[str, Any], kind: str, name: str, root: str) -> str:
    rank, scale = part[f"{kind}rank"], part[f"{kind}scale"]
    alpha = scale * (rank**0.5 if root != "rank" else rank)
    return f"{name} {alpha:.4g} / {root} {rank} = scale {scale:.3g}; rate x scale {part['learning_rate'] * scale:.3g}"


def _regularization(plan: Mapping[str, Any], width: int) -> list[Content]:
    found = plan["regularization"]
    if not found:
        return []
    fewest, most = found["fewest_visits"], found["most_visits"]
    seen = f"{fewest} times" if fewest == most else f"{fewest} to {most} times"
    text = (
        f"regularization: {_count(found['visits_per_epoch'], 'visit')} an epoch to {found['images']} pictures, "
        f"weighted {found['weight']:g}; {found['used']} of them are used, each {seen}"
    )
    return [Content(""), *_paragraph(text, width)]


def _curves(plan: Mapping[str, Any], width: int, glyphs: Glyphs) -> list[Content]:
    curves, ascii_only = plan["curves"], glyphs is ASCII
    room = max(20, min(width - 2, 90))
    labels = ("step 0", f"step {plan['total_steps']}")
    rates = " learning rate over the run, as a share of each part's rate"
    drawn = draw_curve(curves["learning_rate_factor"], room, 4, x_labels=labels, ascii_only=ascii_only)
    lines = [
        Content(""),
        plain(fitted(rates, width), "bold $foreground-muted"),
    ]
    lines += [plain(f" {line}") for line in drawn]
    weights = curves["loss_weight_by_timestep"]
    title = " how much a timestep counts: weight of its loss x how often it is drawn"
    lines += [Content(""), plain(fitted(title, width), "bold $foreground-muted")]
    if max(weights) - min(weights) > 0.05 * max(weights):
        spread = min(weights) > 0 and max(weights) / min(weights) > 20
        labels = ("0: little noise", "999: pure noise")
        drawn = draw_curve(weights, room, 4, x_labels=labels, log=spread, ascii_only=ascii_only)
        return lines + [plain(f" {line}") for line in drawn]
    return [*lines, plain(" all the same")]


def _needs(plan: Mapping[str, Any], config: Config, width: int) -> list[Content]:
    times = "once" if plan["saves"] == 1 else f"{plan['saves']} times"
    said = [
        f"saves {times}, {spoken_bytes(plan['save_bytes'])} each, in {config.output.output_dir}",
        f"disk at most {spoken_bytes(plan['disk_bytes'])}, states for resuming included",
    ]
    measured = plan.get("measured")
    if measured:
        spare = f" of {spoken_bytes(measured['free_bytes'])}" if measured["free_bytes"] else ""
        bucket = "x".join(map(str, measured["bucket"]))
        said += [
            f"time about {spoken_time(measured['expected_s'])} in all, {spoken_time(measured['load_s'])} of it before "
            f"step 1; {measured['step_s']:.3g} s a step of the largest bucket, {bucket}, on {measured['device']}",
            f"memory {spoken_bytes(measured['peak_bytes'])}{spare}",
        ]
    else:
        said.append("time and memory: m tries a few steps")
    return [line for each in said for line in _paragraph(each, width)]


def _paragraph(text: str, width: int, style: str = "") -> list[Content]:
    first, *rest = wrapped(text, max(8, width - 3)) or [""]
    return [plain(f" {first}", style), *(plain(f"   {line}", style) for line in rest)]


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
