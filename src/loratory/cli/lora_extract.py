"""`loratory lora extract`: the difference of two base models as an adapter."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from loratory.cli import output
from loratory.cli.lora_output import file_row, output_options, print_rows
from loratory.cli.lora_rank import Ranks, chosen_device, cut_rows, cuts_json, device_option, rank_options
from loratory.cli.numbers import FiniteRange

if TYPE_CHECKING:
    from loratory.adapters.files import SavePrecision


@click.command()
@click.argument("base", type=click.Path(path_type=Path))
@click.argument("tuned", type=click.Path(path_type=Path))
@rank_options(lowest_conv_rank=0)
@output_options()
@click.option("--full", is_flag=True, help="Write the whole difference instead, norms and biases too.")
@click.option("--exact", is_flag=True, help="Exact singular values for every layer: slower, hardly better.")
@click.option(
    "--clamp-quantile",
    type=FiniteRange(0, 1, min_open=True),
    help="Limit values to this quantile of all of a module's, as sd-scripts does with 0.99.",
)
@click.option("--min-diff", type=FiniteRange(0), help="Leave out layers in which no weight differs by more.")
@device_option
def extract(
    base: Path,
    tuned: Path,
    target: Path,
    ranks: Ranks,
    precision: "SavePrecision | None",
    force: bool,
    as_json: bool,
    full: bool,
    exact: bool,
    clamp_quantile: float | None,
    min_diff: float | None,
    device: str | None,
) -> None:
    """Write what TUNED has over BASE, in UNet and text encoders, as a LoRA or LoCon.

    Both are .safetensors checkpoints or diffusers folders; the files are read layer by layer. --conv-rank 0 leaves the
    convolution blocks out. The precision is fp16 unless --precision says otherwise.
    """
    from loratory.adapters.tools.extract import Extraction, extract_full, extract_lora
    from loratory.adapters.tools.results import refuse_unwritable, remove_leftovers

    if full and (ranks.are_given or exact or clamp_quantile is not None or min_diff is not None or device is not None):
        raise click.UsageError(
            "--full writes every difference as it is; ranks, --exact, --clamp-quantile, --min-diff and --device are "
            "for singular values."
        )
    refuse_unwritable(target, [base, tuned], force=force)
    remove_leftovers(target)
    if full:
        with output.counting("comparing layers, then writing bytes") as progress:
            written = extract_full(base, tuned, target, precision or "fp16", progress)
        if as_json:
            output.data_json({"file": str(target), "tensors": written})
        else:
            print_rows([file_row(target), ("written", f"{written} tensors that differ")])
        return
    rule, conv_rule = ranks.rules()
    extraction = Extraction(rule, None if ranks.conv_rank == 0 else conv_rule, exact, clamp_quantile, min_diff or 0.0)
    with output.counting("extracting (million weights)", unit=10**6) as tell:
        found = extract_lora(
            base,
            tuned,
            target,
            extraction,
            precision or "fp16",
            chosen_device(device),
            tell,
        )
    if as_json:
        report = {"file": str(target), "unchanged_layers": found.unchanged, "norm_left_out": found.rest}
        output.data_json(report | cuts_json(found.modules))
        return
    norm = sum(module.norm**2 for module in found.modules) ** 0.5
    rows = [
        file_row(target),
        ("modules", str(len(found.modules))),
        *cut_rows(found.modules),
    ]
    if found.unchanged:
        rows.append(("the same", f"{found.unchanged} layers, which have no module"))
    if found.rest:
        part = found.rest / (norm**2 + found.rest**2) ** 0.5
        rows.append(
            ("left out", f"{part:.2%} of the norm: layers, norms and biases that such a file has no modules for")
        )
    print_rows(rows)
