"""`loratory lora extract`: the difference of two base models as an adapter."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from loratory.cli import output
from loratory.cli.lora_rank import (
    chosen_device,
    cut_rows,
    cuts_json,
    output_options,
    print_rows,
    rank_options,
    rank_rules,
)
from loratory.wording import spoken_bytes

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
    type=click.FloatRange(0, 1, min_open=True),
    help="Limit values to this quantile of all of a module's, as sd-scripts does with 0.99.",
)
@click.option(
    "--min-diff", type=click.FloatRange(0), default=0.0, help="Leave out layers in which no weight differs by more."
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where to compute.")
def extract(
    base: Path,
    tuned: Path,
    target: Path,
    rank: int | None,
    conv_rank: int | None,
    sv_ratio: float | None,
    sv_fro: float | None,
    sv_cumulative: float | None,
    precision: "SavePrecision | None",
    force: bool,
    as_json: bool,
    full: bool,
    exact: bool,
    clamp_quantile: float | None,
    min_diff: float,
    device: str,
) -> None:
    """Write what TUNED has over BASE, in UNet and text encoders, as a LoRA or LoCon.

    Both are .safetensors checkpoints or diffusers folders; the files are read layer by layer. --conv-rank 0 leaves the
    convolution blocks out. The precision is fp16 unless --precision says otherwise.
    """
    from loratory.adapters.tools.extract import Extraction, extract_full, extract_lora
    from loratory.adapters.tools.merge import remove_leftovers
    from loratory.adapters.tools.results import refuse_unwritable

    refuse_unwritable(target, [base, tuned], force=force)
    remove_leftovers(target)
    if full:
        if any(value is not None for value in (rank, conv_rank, sv_ratio, sv_fro, sv_cumulative, clamp_quantile)):
            raise click.UsageError("--full has no rank to choose.")
        with output.counting("comparing layers, then writing bytes") as progress:
            written = extract_full(base, tuned, target, precision or "fp16", progress)
        if as_json:
            output.data_json({"file": str(target), "tensors": written})
        else:
            size = spoken_bytes(target.stat().st_size)
            print_rows([("file", f"{target} ({size})"), ("written", f"{written} tensors that differ")])
        return
    rule, conv_rule = rank_rules(rank, conv_rank, sv_ratio, sv_fro, sv_cumulative)
    extraction = Extraction(rule, None if conv_rank == 0 else conv_rule, exact, clamp_quantile, min_diff)
    with output.counting("extracting (million weights)") as tell:
        found = extract_lora(
            base,
            tuned,
            target,
            extraction,
            precision or "fp16",
            chosen_device(device),
            lambda done, total: tell(done // 1_000_000, total // 1_000_000),
        )
    if as_json:
        report = {"file": str(target), "unchanged_layers": found.unchanged, "norm_left_out": found.rest}
        output.data_json(report | cuts_json(found.modules))
        return
    norm = sum(module.norm**2 for module in found.modules) ** 0.5
    rows = [
        ("file", f"{target} ({spoken_bytes(target.stat().st_size)})"),
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
