"""`loratory lora resize`: an adapter file at another rank."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from loratory.cli import output
from loratory.cli.lora_output import file_row, output_options, print_rows
from loratory.cli.lora_rank import Ranks, cut_rows, cuts_json, rank_options
from loratory.wording import spoken_bytes

if TYPE_CHECKING:
    from loratory.adapters.files import SavePrecision


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@rank_options()
@output_options()
def resize(
    file: Path,
    target: Path,
    ranks: Ranks,
    precision: "SavePrecision | None",
    force: bool,
    as_json: bool,
) -> None:
    """Write FILE, a LoRA, LoCon or DoRA, at another rank, keeping the largest singular values of every module.

    A module of which nothing would be cut stays as it is, to the bit. Alpha changes with the rank, so that the strength
    stays. The precision is that of FILE unless --precision says otherwise.
    """
    from loratory.adapters.tools.resize import resize_file
    from loratory.adapters.tools.results import refuse_unwritable, remove_leftovers

    rule, conv_rule = ranks.rules()
    refuse_unwritable(target, [file], force=force)
    remove_leftovers(target)
    size_bytes = file.stat().st_size
    with output.counting("resizing modules") as progress:
        resized = resize_file(file, target, rule, conv_rule, precision, progress)
    if as_json:
        output.data_json({"file": str(target), "untouched": resized.others, **cuts_json(resized.modules)})
        return
    left = sum(module.rank == module.full_rank for module in resized.modules)
    rows = [file_row(target, f", from {spoken_bytes(size_bytes)}"), *cut_rows(resized.modules)]
    if left:
        rows.append(("unchanged", f"{left} of {len(resized.modules)} modules, of which nothing was cut"))
    if resized.others:
        rows.append(("no rank", f"{resized.others} modules, kept as they were"))
    print_rows(rows)
