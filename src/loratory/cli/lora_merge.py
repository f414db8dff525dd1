"""`loratory lora merge`: several adapters as one file, or as part of a base model."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loratory.cli import output
from loratory.cli.lora_output import counts, file_row, output_options, print_rows
from loratory.wording import spoken_bytes

if TYPE_CHECKING:
    from loratory.adapters.files import SavePrecision
    from loratory.adapters.tools.combine import Combined
    from loratory.adapters.tools.sources import Ingredient

_SEPARATORS = {"/", "\\"}
_FORMS = {
    "pair": "LoRA of all ranks, exact",
    "cut": "LoRA of the largest singular values",
    "diff": "whole difference, exact",
    "norm": "norm, exact",
}


@click.command()
@click.argument("adapters", nargs=-1, required=True, metavar="FILE[:WEIGHT[:TE_WEIGHT]]...")
@click.option("--into", "into", metavar="MODEL", help="The base model to merge into; the result is a base model.")
@click.option("--base", metavar="MODEL", help="The base model that kinds such as DoRA are computed from.")
@click.option("--rank", type=click.IntRange(1), help="The largest rank in the result; more is cut by singular values.")
@output_options()
def merge(
    adapters: tuple[str, ...],
    target: Path,
    into: str | None,
    base: str | None,
    rank: int | None,
    precision: "SavePrecision | None",
    force: bool,
    as_json: bool,
) -> None:
    """Add up adapters, each times its WEIGHT (1 where none is given): into one file, or with --into into a base model.

    TE_WEIGHT is that of the text encoders, WEIGHT where it is left out. LoRA and LoCon are joined exactly, by their
    ranks; other kinds become whole differences, or with --rank a LoRA. A base model keeps its layout: a checkpoint
    becomes a file, a diffusers folder a folder. The precision is that of the inputs unless --precision says otherwise.
    """
    ingredients = [_ingredient(text) for text in adapters]
    if into is not None:
        if base is not None or rank is not None:
            raise click.UsageError("--base and --rank are for a result that is an adapter; --into makes a base model.")
        _merge_into(into, ingredients, target, precision, force=force, as_json=as_json)
        return
    from loratory.adapters.tools.combine import merge_adapters
    from loratory.adapters.tools.results import refuse_unwritable

    models = [Path(base)] if base is not None else []
    refuse_unwritable(target, [*(each.path for each in ingredients), *models], force=force)
    with output.counting("megabytes merged", unit=10**6) as tell:
        combined = merge_adapters(ingredients, target, rank, base, precision, tell)
    _report(combined, ingredients, as_json=as_json)


def _ingredient(text: str) -> "Ingredient":
    """`FILE`, `FILE:WEIGHT` or `FILE:WEIGHT:TE_WEIGHT`, of which the longest FILE that exists is meant."""
    from loratory.adapters.tools.sources import Ingredient

    parts = text.split(":")
    names = [":".join(parts[: len(parts) - weights]) for weights in range(min(3, len(parts)))]
    name = next((name for name in names if Path(name).is_file()), None)
    if name is None:  # what comes before all that can be a weight, which has no folders
        name = next(name for name in reversed(names) if not _SEPARATORS & {*text[len(name) :]})
    weights = [_weight(part, text) for part in text[len(name) + 1 :].split(":")] if name != text else [1.0]
    return Ingredient(Path(name), weights[0], weights[-1])


def _weight(text: str, argument: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise click.UsageError(f"{argument}: {text!r} is no weight; give a number, as in style.safetensors:0.8.")
    return value


def _merge_into(
    base: str,
    ingredients: "Sequence[Ingredient]",
    target: Path,
    precision: "SavePrecision | None",
    *,
    force: bool,
    as_json: bool,
) -> None:
    from loratory.adapters.tools.checkpoints import find_model
    from loratory.adapters.tools.merge import merge_into_base, refuse_folder
    from loratory.adapters.tools.results import refuse_unwritable

    info = find_model(base)
    if info.layout == "single_file":
        refuse_unwritable(target, [info.path, *(each.path for each in ingredients)], force=force)
    else:
        refuse_folder(info.path, target, [each.path for each in ingredients], force=force)
    with output.counting("megabytes merged", unit=10**6) as tell:
        merged = merge_into_base(base, ingredients, target, precision, tell)
    if as_json:
        output.data_json(
            {"file": str(target), "base": str(info.path), "layers": merged.layers, "merged": _recipe(ingredients)}
        )
        return
    print_rows(
        [
            ("file" if target.is_file() else "folder", f"{target} ({spoken_bytes(merged.size_bytes)})"),
            ("base model", str(info.path)),
            *_ingredient_rows(ingredients),
            ("changed", f"{merged.layers} layers"),
        ]
    )


def _report(combined: "Combined", ingredients: "Sequence[Ingredient]", *, as_json: bool) -> None:
    if as_json:
        output.data_json(
            {
                "file": str(combined.out),
                "merged": _recipe(ingredients),
                "modules": dict(combined.forms),
                "ranks": {str(rank): count for rank, count in sorted(combined.ranks.items())},
                "relative_error": combined.relative_error,
                "lost_biases": combined.lost_biases,
            }
        )
        return
    rows = [
        file_row(combined.out),
        *_ingredient_rows(ingredients),
        *(("modules", f"{count}: {_FORMS[form]}") for form, count in sorted(combined.forms.items())),
    ]
    if combined.ranks:
        rows.append(("rank", counts(combined.ranks.elements())))
    if combined.whole:
        lost = combined.relative_error
        kept = max(0.0, 1 - lost**2) ** 0.5
        rows.append(("kept", f"{kept:.2%} of the norm of what was cut (relative error {lost:.3g})"))
    if combined.lost_biases:
        rows.append(("left out", f"{combined.lost_biases} changes of biases, which a LoRA has no place for"))
    print_rows(rows)


def _recipe(ingredients: "Sequence[Ingredient]") -> list[dict[str, Any]]:
    return [{"file": str(each.path), "unet": each.unet, "text_encoder": each.text_encoder} for each in ingredients]


def _ingredient_rows(ingredients: "Sequence[Ingredient]") -> list[tuple[str, str]]:
    return [
        (
            "adapter",
            f"{each.path} at {each.unet:g}"
            + (f", text encoders at {each.text_encoder:g}" if each.text_encoder != each.unet else ""),
        )
        for each in ingredients
    ]
