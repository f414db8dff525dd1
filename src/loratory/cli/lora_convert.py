"""`loratory lora convert`: an adapter file in another naming, or of another kind."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from loratory.cli import output
from loratory.cli.lora_output import file_row, output_options, print_rows
from loratory.cli.lora_rank import Ranks, chosen_device, cut_rows, cuts_json, device_option, rank_options

if TYPE_CHECKING:
    from loratory.adapters.files import SavePrecision
    from loratory.adapters.keys import Family
    from loratory.adapters.tools.convert import Converted
    from loratory.adapters.tools.naming import Naming


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "to",
    type=click.Choice(["kohya", "kohya-diffusers", "diffusers"]),
    help="The naming to write: kohya for front ends and sd-scripts (default with --bake), kohya-diffusers for the same "
    "with diffusers' block names of SDXL, diffusers for diffusers and peft.",
)
@click.option(
    "--bake",
    type=click.Choice(["lora", "diff"]),
    help="Turn any kind of adapter into a LoRA of a chosen rank, or into whole weight differences.",
)
@click.option("--base", type=click.Path(path_type=Path), help="The base model, for kinds that depend on its weights.")
@click.option(
    "--family", type=click.Choice(["sd1", "sd2", "sdxl"]), help="Of the base model, where FILE does not tell."
)
@rank_options()
@output_options()
@click.option("--exact", is_flag=True, help="With --bake lora: exact singular values for every layer.")
@device_option
def convert(
    file: Path,
    target: Path,
    to: "Naming | None",
    bake: Literal["lora", "diff"] | None,
    base: Path | None,
    family: "Family | None",
    ranks: Ranks,
    precision: "SavePrecision | None",
    force: bool,
    as_json: bool,
    exact: bool,
    device: str | None,
) -> None:
    """Write FILE in another naming, or bake it into a kind of adapter that every program loads.

    FILE may have any of the namings. The precision is that of FILE unless --precision says otherwise.
    """
    from loratory.adapters.tools.bake import bake_diff, bake_lora
    from loratory.adapters.tools.convert import rename
    from loratory.adapters.tools.results import refuse_unwritable, remove_leftovers

    if to is None and bake is None:
        raise click.UsageError("Give --to, --bake or both.")
    if bake != "lora" and ranks.are_given:
        raise click.UsageError("Ranks are chosen with --bake lora; `loratory lora resize` changes them alone.")
    if bake != "lora" and (exact or device is not None):
        raise click.UsageError("--exact and --device are for the singular values that --bake lora computes.")
    if bake is None and base is not None:
        raise click.UsageError("--base goes with --bake.")
    refuse_unwritable(target, [file] if base is None else [file, base], force=force)
    remove_leftovers(target)
    if bake is None:
        converted = rename(file, target, to or "kohya", family=family, precision=precision)
    elif bake == "diff":
        with output.counting("writing (MB)", unit=10**6) as tell:
            converted = bake_diff(
                file,
                target,
                to=to or "kohya",
                base=base,
                family=family,
                precision=precision,
                progress=tell,
            )
    else:
        rule, conv_rule = ranks.rules()
        with output.counting("baking modules") as tell:
            converted = bake_lora(
                file,
                target,
                rule,
                conv_rule,
                to=to or "kohya",
                base=base,
                family=family,
                precision=precision,
                exact=exact,
                device=chosen_device(device),
                progress=tell,
            )
    _report(converted, target, to or "kohya", bake, as_json=as_json)


def _report(converted: "Converted", target: Path, to: str, bake: str | None, *, as_json: bool) -> None:
    if as_json:
        report = {
            "file": str(target),
            "family": converted.family,
            "from": converted.naming,
            "to": to,
            "modules_written": converted.modules,
            "folded": converted.folded,
            "lost_norms": converted.lost_norms,
            "lost_biases": converted.lost_biases,
        }
        output.data_json(report | (cuts_json(converted.cuts) if converted.cuts else {}))
        return
    rows = [
        file_row(target),
        ("modules", str(converted.modules)),
        ("naming", to if converted.naming == to else f"{to}, from {converted.naming}"),
    ]
    if bake is not None:
        rows.append(("baked to", "LoRA" if bake == "lora" else "whole differences"))
    if converted.cuts:
        rows += cut_rows(converted.cuts)
    if converted.folded:
        rows.append(("alpha", f"folded into {converted.folded} modules: diffusers' naming has none"))
    if converted.lost_norms or converted.lost_biases:
        lost = f"{converted.lost_norms} norm layers and {converted.lost_biases} biases, which a LoRA cannot hold"
        rows.append(("left out", lost))
    print_rows(rows)
