"""What the commands that choose ranks share: their options, and how they tell what they did."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from loratory.cli.lora_output import counts, options
from loratory.cli.numbers import FiniteRange
from loratory.errors import LoratoryError

if TYPE_CHECKING:
    from loratory.adapters.tools.low_rank import CutModule, RankRule

_SHOWN_LOWEST = 3


@dataclass(frozen=True)
class Ranks:
    """The ranks that the options of `rank_options` ask for; None where one was not given."""

    rank: int | None
    conv_rank: int | None
    sv_ratio: float | None
    sv_fro: float | None
    sv_cumulative: float | None

    @property
    def are_given(self) -> bool:
        """Whether any of the options was."""
        return any(value is not None for value in asdict(self).values())

    def rules(self) -> "tuple[RankRule, RankRule]":
        """The rules for linear layers and for convolutions; `click.UsageError` where the options do not make one."""
        from loratory.adapters.tools.low_rank import RankRule

        chosen = [value for value in (self.sv_ratio, self.sv_fro, self.sv_cumulative) if value is not None]
        if len(chosen) > 1:
            raise click.UsageError("--sv-ratio, --sv-fro and --sv-cumulative each choose the rank: give one of them.")
        most = self.conv_rank or self.rank
        if not chosen:
            if self.rank is None:
                raise click.UsageError("Give --rank, --sv-ratio, --sv-fro or --sv-cumulative.")
            return RankRule("fixed", most=self.rank), RankRule("fixed", most=most)
        method = "ratio" if self.sv_ratio is not None else "frobenius" if self.sv_fro is not None else "cumulative"
        return RankRule(method, chosen[0], self.rank), RankRule(method, chosen[0], most)


def rank_options(lowest_conv_rank: int = 1) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """--rank, --conv-rank and the three ways to choose by singular values, which the command gets as `ranks`."""
    left_out = "; 0 leaves convolution blocks out" if lowest_conv_rank == 0 else ""
    add_options = options(
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
            type=FiniteRange(1),
            help="Keep singular values above the module's largest divided by this.",
        ),
        click.option(
            "--sv-fro",
            type=FiniteRange(0, 1, min_open=True),
            help="Keep this part of each module's Frobenius norm, such as 0.95.",
        ),
        click.option(
            "--sv-cumulative",
            type=FiniteRange(0, 1, min_open=True),
            help="Keep this part of the sum of each module's singular values, such as 0.9.",
        ),
    )

    def add(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def collected(
            *,
            rank: int | None,
            conv_rank: int | None,
            sv_ratio: float | None,
            sv_fro: float | None,
            sv_cumulative: float | None,
            **others: Any,
        ) -> None:
            command(ranks=Ranks(rank, conv_rank, sv_ratio, sv_fro, sv_cumulative), **others)

        return add_options(collected)

    return add


device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    help="Where to compute: auto, the default, takes cuda where there is one.",
)


def chosen_device(name: str | None) -> str:
    """None and `auto` as cuda where there is one, else cpu. Raises LoratoryError for cuda where there is none."""
    import torch

    if name in (None, "auto"):
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise LoratoryError("There is no CUDA device here.", hint="Leave --device out to compute on the processor.")
    return name


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
