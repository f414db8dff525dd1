"""What the commands that choose ranks share: their options, and how they tell what they did."""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.table import Table
from rich.text import Text

from loratory.cli import output
from loratory.errors import LoratoryError

if TYPE_CHECKING:
    from loratory.adapters.tools.low_rank import CutModule, RankRule

_SHOWN_LOWEST = 3

Command = TypeVar("Command", bound=Callable[..., Any])


def rank_options(lowest_conv_rank: int = 1) -> Callable[[Command], Command]:
    """--rank, --conv-rank and the three ways to choose by singular values."""
    left_out = "; 0 leaves convolution blocks out" if lowest_conv_rank == 0 else ""
    return _options(
        click.option(
            "--rank",
            type=click.IntRange(1),
            help="The new rank; with one of the --sv options, the largest there may be.",
        ),
        click.option(
            "--conv-rank",
            type=click.IntRange(lowest_conv_rank),
            help=f"As --rank, for 3x3 convolutions{left_out}. Default: as --rank.",
        ),
        click.option(
            "--sv-ratio",
            type=click.FloatRange(1),
            help="Keep singular values above the module's largest divided by this.",
        ),
        click.option(
            "--sv-fro",
            type=click.FloatRange(0, 1, min_open=True),
            help="Keep this part of each module's Frobenius norm, such as 0.95.",
        ),
        click.option(
            "--sv-cumulative",
            type=click.FloatRange(0, 1, min_open=True),
            help="Keep this part of the sum of each module's singular values, such as 0.9.",
        ),
    )


def output_options() -> Callable[[Command], Command]:
    """-o, --precision, --force and --json."""
    return _options(
        click.option(
            "-o", "--output", "target", required=True, type=click.Path(path_type=Path), help="The file to write."
        ),
        click.option("--precision", type=click.Choice(["fp16", "bf16", "float"]), help="Of the file written."),
        click.option("--force", is_flag=True, help="Replace the output if it is there already."),
        click.option("--json", "as_json", is_flag=True, help="What was done to every module, as JSON."),
    )


def _options(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def rank_rules(
    rank: int | None,
    conv_rank: int | None,
    sv_ratio: float | None,
    sv_fro: float | None,
    sv_cumulative: float | None,
) -> "tuple[RankRule, RankRule]":
    """The rules for linear layers and for convolutions; `click.UsageError` where the options do not make one."""
    from loratory.adapters.tools.low_rank import RankRule

    chosen = [value for value in (sv_ratio, sv_fro, sv_cumulative) if value is not None]
    if len(chosen) > 1:
        raise click.UsageError("--sv-ratio, --sv-fro and --sv-cumulative each choose the rank: give one of them.")
    most = conv_rank or rank
    if not chosen:
        if rank is None:
            raise click.UsageError("Give --rank, --sv-ratio, --sv-fro or --sv-cumulative.")
        return RankRule("fixed", most=rank), RankRule("fixed", most=most)
    method = "ratio" if sv_ratio is not None else "frobenius" if sv_fro is not None else "cumulative"
    return RankRule(method, chosen[0], rank), RankRule(method, chosen[0], most)


def chosen_device(name: str) -> str:
    """`auto` as cuda where there is one, else cpu. Raises LoratoryError for cuda where there is none."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise LoratoryError("There is no CUDA device here.", hint="Leave --device out to compute on the processor.")
    return name


def counts(values: Iterable[int]) -> str:
    """`16` when all agree, else `8 to 32, 17.4 on average`."""
    found = list(values)
    if min(found) == max(found):
        return str(found[0])
    return f"{min(found)} to {max(found)}, {sum(found) / len(found):.1f} on average"


def cut_rows(modules: "Sequence[CutModule]") -> list[tuple[str, str]]:
    """What became of the modules: ranks, what was kept in all, and the modules that lost most."""
    from loratory.adapters.tools.low_rank import relative_error

    lost = relative_error(modules)
    lowest = sorted((module for module in modules if module.error), key=lambda module: module.share)[:_SHOWN_LOWEST]
    return [
        ("rank", counts(module.rank for module in modules)),
        ("kept", f"{max(0.0, 1 - lost**2) ** 0.5:.2%} of the norm of all changes (relative error {lost:.3g})"),
        *(("least kept", f"{module.share:.2%} at rank {module.rank}: {module.key}") for module in lowest),
    ]


def cuts_json(modules: "Sequence[CutModule]") -> dict[str, Any]:
    from loratory.adapters.tools.low_rank import relative_error

    return {
        "relative_error": relative_error(modules),
        "modules": [asdict(module) | {"share": module.share} for module in modules],
    }


def print_rows(rows: Iterable[tuple[str, str]], name_columns: int = 0, most_characters: int | None = None) -> None:
    """A table on a terminal, `name<tab>value` lines in a pipe; values are text, never markup.

    name_columns: the least width of the names, for a table that goes on. most_characters: of a value on a terminal;
    what is longer is cut. A pipe always has all of it.
    """
    clean = [(name, output.one_line(value)) for name, value in rows]
    if not sys.stdout.isatty():
        for name, value in clean:
            output.data(f"{name}\t{value}")
        return
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True, min_width=name_columns)
    table.add_column(overflow="fold")
    for name, value in clean:
        is_long = most_characters is not None and len(value) > most_characters
        table.add_row(Text(name), Text(value[:most_characters] + "…" if is_long else value))
    output.show(table)
