"""`loratory lora`: what is in an adapter file, and whether it is sound."""

import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from loratory.adapters.summary import AdapterSummary, ComponentSummary, inspect_file
from loratory.cli import output
from loratory.errors import FAILED
from loratory.wording import spoken_bytes

_SHOWN_TAGS = 20
_SHOWN_CHARACTERS = 400
_PRECISIONS = {"F32": "float", "F16": "fp16", "BF16": "bf16"}
_HASHES = {
    "ok": "ok, the data is as it was written",
    "wrong": "WRONG, the data was changed after it was written",
    "absent": "none in the metadata",
}
# The settings people look for, in this order; `--json` has all of the metadata.
_SETTINGS = (
    "ss_output_name",
    "modelspec.title",
    "modelspec.author",
    "modelspec.description",
    "modelspec.license",
    "ss_training_comment",
    "modelspec.date",
    "modelspec.architecture",
    "ss_base_model_version",
    "ss_network_module",
    "ss_network_dim",
    "ss_network_alpha",
    "ss_network_args",
    "ss_steps",
    "ss_epoch",
    "ss_num_train_images",
    "ss_num_reg_images",
    "ss_total_batch_size",
    "ss_resolution",
    "ss_learning_rate",
    "ss_unet_lr",
    "ss_text_encoder_lr",
    "ss_optimizer",
    "ss_lr_scheduler",
    "ss_clip_skip",
    "ss_min_snr_gamma",
    "ss_noise_offset",
    "ss_seed",
)


@click.group()
def lora() -> None:
    """Look into adapter files and check them."""


@lora.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Everything, the whole metadata included, as JSON.")
def inspect(file: Path, as_json: bool) -> None:
    """What FILE is: kind of network, base model, ranks, modules, settings, tags, and whether its hash holds."""
    summary = inspect_file(file)
    if as_json:
        output.data_json(
            asdict(summary) | {"parameters": summary.parameters, "tag_frequency": dict(summary.tag_frequency())}
        )
        return
    _print_rows(_summary_rows(summary))


@lora.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="The findings as JSON.")
def verify(file: Path, as_json: bool) -> int:
    """Check FILE: hashes, missing parts, shapes, values, names that front ends know, and parts that learned nothing.

    Exit code 0 when nothing is wrong, 1 with errors or warnings, 2 when FILE is not an adapter.
    """
    from loratory.adapters.verify import verify_file  # imports torch, which takes seconds

    findings = verify_file(file)
    wrong = [finding for finding in findings if finding.severity != "note"]
    if as_json:
        output.data_json({"file": str(file), "ok": not wrong, "findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            output.data(_one_line(f"{finding.severity}: {finding.message} [{finding.rule}]"))
        if not wrong:
            output.data(_one_line(f"{file} is sound."))
    return FAILED if wrong else 0


def _summary_rows(summary: AdapterSummary) -> Iterable[tuple[str, str]]:
    from loratory.adapters.layout import FAMILY_NAMES

    yield "file", f"{summary.path} ({spoken_bytes(summary.size_bytes)})"
    yield "type", summary.network_type
    family = FAMILY_NAMES[summary.family] if summary.family else "unknown"
    yield "family", f"{family}, because {summary.family_reason}"
    yield "base model", summary.base_model or "not named"
    yield (
        "precision",
        ", ".join(f"{_PRECISIONS.get(name, name)} ({count} tensors)" for name, count in summary.precisions.items()),
    )
    yield "parameters", f"{summary.parameters:,}"
    for component in summary.components:
        yield component.component, _component_line(component)
    if summary.other_tensors:
        yield "other", f"{summary.other_tensors} tensors of no known component"
    yield "hash", f"{_HASHES[summary.hashes]} ({summary.model_hash[:10]})"
    for key in _SETTINGS:
        value = summary.metadata.get(key, "None")
        if value not in ("None", ""):
            yield key, value
    tags = summary.tag_frequency()
    if tags:
        shown = ", ".join(f"{tag} ({count})" for tag, count in tags[:_SHOWN_TAGS])
        yield "tags", shown + (f" and {len(tags) - _SHOWN_TAGS} more" if len(tags) > _SHOWN_TAGS else "")


def _component_line(component: ComponentSummary) -> str:
    parts = [f"{component.modules} modules"]
    if component.convolutions:
        parts.append(f"{component.convolutions} of them convolutions")
    if component.ranks:
        parts.append(f"rank {_values(component.ranks)}")
    if component.alphas:
        parts.append(f"alpha {_values(component.alphas)}")
    return ", ".join([*parts, f"{component.parameters:,} parameters"])


def _values(counts: dict[Any, int]) -> str:
    """`32` when all agree, else `32 (192 times), 16 (30 times)`."""
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    if len(ordered) == 1:
        return f"{ordered[0][0]:g}"
    return ", ".join(f"{value:g} ({count} times)" for value, count in ordered[:6]) + (", …" if len(ordered) > 6 else "")


def _one_line(text: str) -> str:
    return output.plain(" ".join(text.split()))


def _print_rows(rows: Iterable[tuple[str, str]]) -> None:
    """A table on a terminal, `name<tab>value` lines in a pipe. Values come from the file: text, never markup."""
    clean = [(name, _one_line(value)) for name, value in rows]
    if not sys.stdout.isatty():
        for name, value in clean:
            output.data(f"{name}\t{value}")
        return
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in clean:
        cut = value if len(value) <= _SHOWN_CHARACTERS else value[:_SHOWN_CHARACTERS] + "…"
        table.add_row(Text(name), Text(cut))
    output.show(table)
