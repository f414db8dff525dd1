"""`loratory lora inspect` and `loratory lora verify`: what is in an adapter file, and whether it is sound."""

import shutil
import sys
from collections.abc import Iterable
from dataclasses import asdict
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loratory.adapters.compatibility import Loader, Support, features, spoken, support
from loratory.adapters.summary import AdapterSummary, ComponentSummary, inspect_file, json_object, read_modules
from loratory.cli import output
from loratory.cli.lora_output import print_rows
from loratory.cli.sentences import bar, sentence
from loratory.errors import FAILED
from loratory.wording import spoken_bytes

if TYPE_CHECKING:
    from loratory.adapters.norms import BlockNorm, Norms

_SHOWN_TAGS = 20
_SHOWN_TRAITS = 8
_SHOWN_CHARACTERS = 400
# Of a line of the chart, what is not bar: names at the left, value and number of modules at the right.
_LABEL_COLUMNS = 48
_PRECISIONS = {"F32": "float", "F16": "fp16", "BF16": "bf16"}
_HASHES = {
    "ok": "ok, the data is as it was written",
    "wrong": "WRONG, the data was changed after it was written",
    "absent": "none in the metadata",
    "foreign": "of LyCORIS' own kind, which no file allows to check",
    "unread": "not checked",
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


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--base", metavar="MODEL", help="The base model: what the file changes is then measured against it.")
@click.option("--quick", is_flag=True, help="Read the header alone: no check of the hash, no norms.")
@click.option("--ascii", "ascii_only", is_flag=True, help="Draw the bars with plain characters.")
@click.option("--json", "as_json", is_flag=True, help="Everything, the whole metadata included, as JSON.")
def inspect(file: Path, base: str | None, quick: bool, ascii_only: bool, as_json: bool) -> None:
    """What FILE is: kind of network, base model, ranks, modules, what loads it, settings, tags, whether its hash holds,
    and how much it changes each block of the model.
    """
    if quick and base is not None:
        raise click.UsageError("--base needs the values of the file, which --quick does not read.")
    summary = inspect_file(file, check_hash=False)
    loaders = support(features(read_modules(file), summary.family))
    if as_json:
        _write_json(summary if quick else _with_hash(file), loaders, None if quick else _norms(file, base))
        return
    # The header is told at once; the values of a large file take seconds.
    rows = list(_summary_rows(summary, loaders))
    name_columns = max(len(name) for name, _ in rows)
    print_rows(rows, name_columns, _SHOWN_CHARACTERS)
    if quick:
        return
    checked = _with_hash(file)
    print_rows([("hash", f"{_HASHES[checked.hashes]} ({checked.model_hash[:10]})")], name_columns)
    _print_norms(_norms(file, base), ascii_only=ascii_only)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="The findings as JSON.")
def verify(file: Path, as_json: bool) -> int:
    """Check FILE: hashes, missing parts, shapes, values, names that front ends know, parts that learned nothing, and
    which programs do not load it.

    Exit code 0 when nothing is wrong, 1 with errors or warnings, 2 when FILE is not an adapter.
    """
    from loratory.adapters.verify import verify_file  # imports torch, which takes seconds

    findings = verify_file(file)
    wrong = [finding for finding in findings if finding.severity != "note"]
    if as_json:
        output.data_json({"file": str(file), "ok": not wrong, "findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            sentence(f"{finding.severity}: {finding.message} [{finding.rule}]", "  ")
        if not wrong:
            sentence(f"{file} is sound.")
    return FAILED if wrong else 0


def _norms(file: Path, base: str | None) -> "Norms":
    from loratory.adapters.norms import block_norms  # imports torch, which takes seconds

    with output.counting("measuring, in MB") as progress:
        return block_norms(file, base, lambda done, total: progress(done // 10**6, max(1, total // 10**6)))


def _with_hash(file: Path) -> AdapterSummary:
    with output.working("checking the hash"):
        return inspect_file(file)


def _summary_rows(summary: AdapterSummary, loaders: dict[Loader, Support]) -> Iterable[tuple[str, str]]:
    from loratory.adapters.layout import FAMILY_NAMES

    yield "file", f"{summary.path} ({spoken_bytes(summary.size_bytes)})"
    yield "type", summary.network_type + _trained_as(summary)
    if len(summary.kinds) > 1:
        yield "kinds", _counted(summary.kinds)
    if summary.traits:
        yield "traits", _counted(summary.traits)
    if summary.incomplete:
        yield "incomplete", f"{summary.incomplete} modules; `loratory lora verify` names them"
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
    for loader, answer in loaders.items():
        yield f"in {loader}", spoken(answer)
    for key in _SETTINGS:
        value = summary.metadata.get(key, "None")
        if value not in ("None", ""):
            yield key, value
    tags = summary.tag_frequency()
    if tags:
        shown = ", ".join(f"{tag} ({count})" for tag, count in tags[:_SHOWN_TAGS])
        yield "tags", shown + (f" and {len(tags) - _SHOWN_TAGS} more" if len(tags) > _SHOWN_TAGS else "")


def _trained_as(summary: AdapterSummary) -> str:
    """What the metadata say that the tensors do not show: a DyLoRA is a LoRA file."""
    algo = json_object(summary.metadata.get("ss_network_args", "")).get("algo")
    return ", trained as DyLoRA" if algo == "dylora" else ""


def _component_line(component: ComponentSummary) -> str:
    parts = [f"{component.modules} modules"]
    if component.convolutions:
        parts.append(f"{component.convolutions} of them convolutions")
    if component.norms:
        parts.append(f"{component.norms} norms")
    if component.ranks:
        parts.append(f"rank {_values(component.ranks)}")
    if component.alphas:
        parts.append(f"alpha {_values(component.alphas)}")
    return ", ".join([*parts, f"{component.parameters:,} parameters"])


def _counted(counts: dict[str, int]) -> str:
    named = [f"{name} ({count})" for name, count in counts.items()]
    return ", ".join(named[:_SHOWN_TRAITS]) + (
        f" and {len(named) - _SHOWN_TRAITS} more" if named[_SHOWN_TRAITS:] else ""
    )


def _write_json(summary: AdapterSummary, loaders: dict[Loader, Support], norms: "Norms | None") -> None:
    told = asdict(summary) | {"parameters": summary.parameters, "tag_frequency": dict(summary.tag_frequency())}
    told["loaders"] = {loader: answer._asdict() for loader, answer in loaders.items()}
    told["norms"] = None if norms is None else [_finite(asdict(block)) for block in norms.blocks]
    told["not_measured"] = {} if norms is None else norms.left_out
    output.data_json(told)


def _finite(block: dict[str, Any]) -> dict[str, Any]:
    """JSON has no infinity."""
    return {key: None if value == inf else value for key, value in block.items()}


def _print_norms(norms: "Norms", *, ascii_only: bool) -> None:
    """Bars on a terminal; in a pipe a line for each block: norm, component, block, measure, value, modules."""
    from loratory.adapters.norms import MEASURES, grouped

    if not sys.stdout.isatty():
        for block in norms.blocks:
            of_base = [] if block.base_norm is None else [f"{block.base_norm:.6g}"]
            fields = (block.component, block.block, block.measure, f"{block.norm:.6g}", str(block.modules), *of_base)
            output.data("\t".join(("norm", *fields)))
    else:
        rows = grouped(norms.blocks)
        for measure, title in MEASURES.items():
            own = [block for block in rows if block.measure == measure]
            if own:
                output.data("")
                sentence(f"{title}, by block")
                for line in bar_lines(own, _bar_width(), ascii_only=ascii_only):
                    output.data(line)
    if norms.left_out:
        key, reason = next(iter(norms.left_out.items()))
        sentence(f"Not measured: {len(norms.left_out)} modules, such as {key}: {reason}", "  ")
    if any(block.measure != "change" for block in norms.blocks):
        sentence("The whole change depends on the base model: `--base MODEL` measures it.", "  ")


def _bar_width() -> int:
    return max(8, min(shutil.get_terminal_size().columns, 100) - _LABEL_COLUMNS)


def bar_lines(blocks: list["BlockNorm"], width: int, *, ascii_only: bool) -> Iterable[str]:
    """A line for each block: its name, a bar of at most `width` cells, value, number of modules, share of the base."""
    highest = max((block.norm for block in blocks if block.norm != inf), default=0.0)
    for block in blocks:
        share = 1.0 if block.norm == inf else block.norm / highest if highest else 0.0
        drawn = bar(share, width, ascii_only=ascii_only)
        value = "not finite" if block.norm == inf else f"{block.norm:.4g}"
        modules = f"{block.modules} modules" if block.modules > 1 else "1 module"
        of_base = f", {block.norm / block.base_norm:.2%} of the base" if block.base_norm else ""
        yield f"{block.component:<5}{block.block:<17} {drawn:<{width}} {value} in {modules}{of_base}"


def _values(counts: dict[Any, int]) -> str:
    """`32` when all agree, else `32 (192 times), 16 (30 times)`."""
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    if len(ordered) == 1:
        return f"{ordered[0][0]:g}"
    return ", ".join(f"{value:g} ({count} times)" for value, count in ordered[:6]) + (", …" if len(ordered) > 6 else "")
