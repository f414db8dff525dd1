"""A run, or a list of runs, as one page of HTML without scripts. Pure: text in, text out, all of it escaped."""

import html
import math
import urllib.parse
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from loratory.runs.progress import Progress
from loratory.runs.store import Liveness, RunRecord
from loratory.wording import spoken_pace, spoken_time

REFRESH_S = 5
_CHART = (900, 260)
_COLUMNS = 450
_MESSAGES = 8

_STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.45 system-ui,sans-serif;max-width:60rem;margin:1rem auto;padding:0 1rem}
table{border-collapse:collapse}td,th{padding:.15rem 1.2rem .15rem 0;text-align:left;vertical-align:top}
td{font-variant-numeric:tabular-nums}
svg{width:100%;height:auto}svg text{font-size:12px;fill:currentColor}
.band{fill:currentColor;opacity:.22}.mean{fill:none;stroke:currentColor;stroke-width:2}
.broken{stroke:#d33;stroke-width:2}.axis{stroke:currentColor;opacity:.4}
.pictures{display:flex;flex-wrap:wrap;gap:1rem}figure{margin:0;max-width:20rem}figure img{max-width:100%}
figcaption{font-size:.85em;overflow-wrap:anywhere}
"""


class Picture(NamedTuple):
    """name: its path below the run's folder. version: changes with its content. caption: what stands below it."""

    name: str
    version: str
    caption: str


def run_page(
    name: str,
    state: Liveness,
    record: RunRecord | None,
    progress: Progress,
    pictures: Sequence[Picture],
    alarms: Sequence[str],
    base: str,
) -> str:
    """The page of one run. alarms: sentences, the newest last. base: what its pictures' addresses begin with."""
    message = record.message if record else ""
    sentence = f"{state}: {message}" if message else state
    rows = "".join(f"<tr><th>{_safe(key)}</th><td>{_safe(value)}</td></tr>" for key, value in _figures(progress))
    told = [*list(alarms)[-_MESSAGES:], *(notice.message for _, notice in list(progress.notices)[-_MESSAGES:])]
    messages = "".join(f"<li>{_safe(text)}</li>" for text in told)
    shown = "".join(
        f'<figure><a href="{_link(base, each)}"><img loading="lazy" src="{_link(base, each)}" alt=""></a>'
        f"<figcaption>{_safe(each.caption)}</figcaption></figure>"
        for each in pictures
    )
    parts = [
        f"<h1>{_safe(name)}</h1><p><b>{_safe(sentence)}</b></p><table>{rows}</table>",
        f"<h2>Loss</h2>{loss_chart(progress)}",
        f"<h2>What was said</h2><ul>{messages}</ul>" if messages else "",
        f'<h2>Pictures</h2><div class="pictures">{shown}</div>' if shown else "",
    ]
    return _document(name, "".join(parts), refreshes=state in ("starting", "running", "paused", "silent"))


def runs_page(rows: Iterable[tuple[str, Liveness, RunRecord | None]]) -> str:
    """The list of runs: (name, state, record) of each, with a link to its page."""
    lines = "".join(
        f'<tr><td><a href="/run/{_quoted(name)}/">{_safe(name)}</a></td><td>{_safe(state)}</td>'
        f"<td>{f'step {record.step} of {record.total_steps}' if record and record.total_steps else ''}</td></tr>"
        for name, state, record in rows
    )
    return _document("Runs", f"<h1>Runs</h1><table>{lines}</table>" if lines else "<h1>No runs</h1>", refreshes=True)


def loss_chart(progress: Progress) -> str:
    """The loss as SVG: the range of each stretch of steps, its smoothed line, and where it was no number."""
    last = progress.losses.last_step
    spans = progress.losses.between(1, last, _COLUMNS)
    smooth = progress.smoothed.between(1, last, _COLUMNS)
    seen = [(x, low, high) for x, low, high in zip(spans.first, spans.low, spans.high, strict=True) if low == low]
    if not seen:
        return "<p>No step yet.</p>"
    bottom, top = float(min(low for _, low, _ in seen)), float(max(high for _, _, high in seen))
    width, height = _CHART
    left, right, upper, lower = 60, width - 10, 10, height - 25

    def at(step: float, value: float) -> str:
        share = 0.5 if top == bottom else (value / 2 - bottom / 2) / (top / 2 - bottom / 2)  # never beyond a float
        return f"{left + (right - left) * (step - 1) / max(1, last - 1):.1f},{lower - (lower - upper) * share:.1f}"

    band = " ".join([*(at(x, high) for x, _, high in seen), *(at(x, low) for x, low, _ in reversed(seen))])
    line = " ".join(at(x, mean) for x, mean in zip(smooth.first, smooth.mean, strict=True) if math.isfinite(mean))
    ticks = [at(x, bottom).partition(",")[0] for x, broken in zip(spans.first, spans.broken, strict=True) if broken]
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="loss by step">'
        f'<line class="axis" x1="{left}" y1="{lower}" x2="{right}" y2="{lower}"/>'
        f'<polygon class="band" points="{band}"/><polyline class="mean" points="{line}"/>'
        + "".join(f'<line class="broken" x1="{x}" y1="{upper}" x2="{x}" y2="{lower}"/>' for x in ticks)
        + f'<text x="0" y="{upper + 10}">{top:.3g}</text><text x="0" y="{lower}">{bottom:.3g}</text>'
        f'<text x="{left}" y="{height - 5}">step 1</text>'
        f'<text x="{right}" y="{height - 5}" text-anchor="end">{last}</text></svg>'
    )


def _figures(progress: Progress) -> Iterable[tuple[str, str]]:
    last, started = progress.last, progress.started
    if progress.phase is not None:
        yield "doing", f"{progress.phase.name}, {progress.phase.done} of {progress.phase.total}"
    if started is not None:
        yield "step", f"{progress.step} of {progress.total_steps}"
        yield "epoch", f"{progress.epoch} of {progress.epochs}"
        yield "device", started.device
    if last is not None:
        yield "loss", f"{last.loss:.4f}, smoothed {progress.smoothed.last:.4f}"
        yield "normalised loss", f"{progress.normalised_smoothed.last:.3f} (1 is as usual at its timesteps)"
        yield "rate", ", ".join(f"{part} {rate:.3g}" for part, rate in last.effective_lr.items())
        yield "gradient norm", f"{last.grad_norm:.3g}"
        yield "pace", spoken_pace(progress.seconds_per_step)
    if progress.validation.last_step:
        yield "validation loss", f"{progress.validation.last:.4f} after step {progress.validation.last_step}"
    if progress.eta_s is not None and progress.finished is None:
        yield "time left", spoken_time(progress.eta_s)
    shares = progress.time_shares()
    if shares:
        yield "where the time goes", ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    if progress.hardware is not None:
        for card in progress.hardware.cards:
            load = "" if card.load is None else f", {card.load:.0f} %"
            memory = "" if card.memory_bytes is None else f", {card.memory_bytes / 1e9:.1f} GB"
            yield "GPU", f"{card.name}{load}{memory}"
        yield "CPU", f"{progress.hardware.cpu:.0f} %"
    if progress.saves:
        _, saved = progress.saves[-1]
        yield "newest adapter", f"{saved.path}, step {saved.step}"


def _document(title: str, body: str, *, refreshes: bool) -> str:
    refresh = f'<meta http-equiv="refresh" content="{REFRESH_S}">' if refreshes else ""
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">{refresh}'
        f'<meta name="viewport" content="width=device-width"><title>{_safe(title)} · Loratory</title>'
        f"<style>{_STYLE}</style></head><body>{body}</body></html>"
    )


def _link(base: str, picture: Picture) -> str:
    return f"{base}{_quoted(picture.name)}?{_quoted(picture.version)}"


def _quoted(name: str) -> str:
    # File names that are not UTF-8 come back as the same bytes.
    return urllib.parse.quote(name, errors="surrogateescape")


def _safe(text: str) -> str:
    return html.escape("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text))
