"""Several adapters as one file that changes a model as all of them together do."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from loratory.adapters.files import DTYPES, SavePrecision
from loratory.adapters.roles import ALPHA, LORA_DOWN, LORA_MID, LORA_UP
from loratory.adapters.tools.checkpoints import Checkpoint
from loratory.adapters.tools.combine_plan import Form, Module, by_layer, family_of_all, is_pair, plan
from loratory.adapters.tools.low_rank import RankRule, cut, factors_of_matrix, factors_of_product
from loratory.adapters.tools.recipe import (
    MADE_FOR_KEY,
    Recipe,
    common_metadata,
    recipe_metadata,
    recipe_of,
    spoken_recipe,
)
from loratory.adapters.tools.results import precision_of, remove_leftovers
from loratory.adapters.tools.sources import AdapterSource, Ingredient, Source, refuse_strengths, zeros_like_layer
from loratory.adapters.tools.stream import (
    HASHES,
    STORED_DTYPES,
    Planned,
    Progress,
    no_progress,
    planned,
    rounded,
    tensor_bytes,
    write_tensors,
)


@dataclass
class Combined:
    """What was written. forms: how many modules became what. ranks: of the LoRA modules, by count.

    lost, whole: squared Frobenius norms of what lower ranks left out, and of the changes they were cut from.
    lost_biases: changes of biases, which a LoRA has no place for.
    """

    out: Path
    forms: Counter[Form] = field(default_factory=Counter[Form])
    ranks: Counter[int] = field(default_factory=Counter[int])
    lost: float = 0.0
    whole: float = 0.0
    lost_biases: int = 0
    size_bytes: int = 0

    @property
    def relative_error(self) -> float:
        """The norm of what was left out over the norm of the whole; 0 where nothing was cut."""
        return (self.lost / self.whole) ** 0.5 if self.whole else 0.0


@torch.no_grad()
def merge_adapters(
    ingredients: Sequence[Ingredient],
    out: Path,
    rank: int | None = None,
    base: Path | str | None = None,
    save_precision: SavePrecision | None = None,
    progress: Progress = no_progress,
) -> Combined:
    """Writes one adapter file whose change is the sum of strength * change of every adapter.

    LoRA and LoCon modules are joined by their ranks, which is exact; other kinds become the difference itself (`diff`),
    exact too, but as large as the layer. rank: the most that a module may have; more is cut by singular values, and
    other kinds become a LoRA. base: needed for kinds whose change depends on the model's weights (DoRA, GLoRA, iA3,
    OFT, BOFT), and then for that model alone; and for other kinds than LoRA of a model that is not of published size.
    save_precision: None for the narrowest that holds all inputs. Norms stay norms. Memory: the largest layer a few
    times, in float32. Raises LoratoryError for adapters of different families or sizes, before anything is written, and
    (exit code 1) when the disk refuses; nothing is left behind then.
    """
    refuse_strengths(ingredients)
    with ExitStack() as stack:
        sources = [(item, stack.enter_context(AdapterSource(item.path))) for item in ingredients]
        model = stack.enter_context(Checkpoint(base)) if base is not None else None
        family = family_of_all([adapter for _, adapter in sources], model)
        modules = plan(by_layer(sources, family), family, model, rank)
        dtype = DTYPES[save_precision or _precision_of([adapter for _, adapter in sources])]
        combined = Combined(out)
        for module in modules:
            combined.forms[module.form] += 1
            if LORA_DOWN in module.tensors:
                combined.ranks[module.tensors[LORA_DOWN][0]] += 1
        listing = [
            planned(f"{module.key}.{role}", torch.float32 if role == ALPHA else dtype, shape)
            for module in modules
            for role, shape in sorted(module.tensors.items())
        ]
        combined.size_bytes = sum(tensor.size_bytes for tensor in listing)
        metadata = _metadata(sources, combined, out, model, recipe_of(sources))
        remove_leftovers(out)
        write_tensors(
            out,
            listing,
            metadata,
            _content(modules, listing, model, combined),
            progress,
            hashes=list(HASHES),
        )
    return combined


def _precision_of(adapters: Sequence[AdapterSource]) -> SavePrecision:
    return precision_of(
        (f"{key}.{role}", STORED_DTYPES.get(adapter.dtype(key, role)))
        for adapter in adapters
        for key, roles in adapter.roles.items()
        for role in roles
    )


# ------------------------------------------------------------------------------------------------- values


def _content(
    modules: Sequence[Module], listing: Sequence[Planned], model: Checkpoint | None, combined: Combined
) -> Callable[[str], Iterator[memoryview]]:
    """Bytes by tensor name. The tensors of a module come one after the other, and are computed once."""
    by_name = {f"{module.key}.{role}": (module, role) for module in modules for role in module.tensors}
    formats = {tensor.name: STORED_DTYPES[tensor.dtype] for tensor in listing}
    latest: dict[str, dict[str, Tensor]] = {}

    def content(name: str) -> Iterator[memoryview]:
        module, role = by_name[name]
        if role == ALPHA:
            yield tensor_bytes(torch.tensor(float(module.tensors[LORA_DOWN][0])))
            return
        if module.key not in latest:
            latest.clear()
            latest[module.key] = _values(module, model, combined)
        value = latest[module.key][role].reshape(module.tensors[role])
        yield tensor_bytes(rounded(value, formats[name], f"The sum in {name}"))

    return content


def _values(module: Module, model: Checkpoint | None, combined: Combined) -> dict[str, Tensor]:
    if is_pair(module.sources):
        up, down = _joined(module.sources)
        if module.form == "pair":
            return {LORA_UP: up, LORA_DOWN: down}
        factors = factors_of_product(up, down)
    else:
        weight = zeros_like_layer(module.shape)
        if model is not None and module.layer is not None:
            weight = model.read(module.layer.weight).float()
        change, bias = _sum(module.sources, weight)
        if module.form != "cut":
            roles = ("w_norm", "b_norm") if module.form == "norm" else ("diff", "diff_b")
            return {roles[0]: change} | ({roles[1]: bias} if bias is not None else {})
        combined.lost_biases += bias is not None
        rule = RankRule("fixed", most=module.tensors[LORA_DOWN][0])
        factors = factors_of_matrix(change.flatten(1), rule)
    kept = module.tensors[LORA_DOWN][0]
    pair = cut(factors, kept)
    combined.whole += factors.squares
    combined.lost += max(0.0, factors.squares - float(factors.values[:kept].double().square().sum()))
    return {LORA_UP: pair.up, LORA_DOWN: pair.down}


def _joined(sources: Sequence[Source]) -> tuple[Tensor, Tensor]:
    """up (out, r) and down (r, in * kernel) of all sources side by side, with strengths and scales in up."""
    ups: list[Tensor] = []
    downs: list[Tensor] = []
    for source in sources:
        tensors = source.adapter.finite_tensors(source.key)
        down, up = tensors[LORA_DOWN].float(), tensors[LORA_UP].float().flatten(1)
        scale = source.strength * (float(tensors[ALPHA]) / down.shape[0] if ALPHA in tensors else 1.0)
        if LORA_MID in tensors:
            down = torch.einsum("rskl,si->rikl", tensors[LORA_MID].float(), down.flatten(1))
        ups.append(up * scale)
        downs.append(down.flatten(1))
    return torch.cat(ups, 1), torch.cat(downs, 0)


def _sum(sources: Sequence[Source], weight: Tensor) -> tuple[Tensor, Tensor | None]:
    change, bias = torch.zeros(weight.shape), None
    for source in sources:
        found = source.adapter.delta(source.key, weight)
        change.add_(found.weight.reshape(change.shape), alpha=source.strength)
        if found.bias is not None:
            added = found.bias.float() * source.strength
            bias = added if bias is None else bias + added
    return change, bias


# ------------------------------------------------------------------------------------------------- metadata


def _metadata(
    sources: Sequence[tuple[Ingredient, AdapterSource]],
    combined: Combined,
    out: Path,
    model: Checkpoint | None,
    recipe: Recipe,
) -> dict[str, str]:
    """What all sources say alike, what the result is, and what it was made of."""
    is_lora = set(combined.forms) <= {"pair", "cut"}
    ranks = "Dynamic" if len(combined.ranks) != 1 else str(next(iter(combined.ranks)))
    made_for = {MADE_FOR_KEY: model.info.path.name} if model is not None and _is_bound(sources) else {}
    return (
        common_metadata([adapter.metadata for _, adapter in sources])
        | {
            "modelspec.title": out.stem,
            "ss_output_name": out.stem,
            "ss_network_module": "networks.lora" if is_lora else "lycoris.kohya",
            "ss_network_dim": ranks,
            "ss_network_alpha": ranks,
            "ss_network_args": json.dumps({} if is_lora else {"algo": "full"}),
            "ss_training_comment": f"merged: {spoken_recipe(recipe)}",
        }
        | recipe_metadata(recipe)
        | made_for
    )


def _is_bound(sources: Sequence[tuple[Ingredient, AdapterSource]]) -> bool:
    """Whether the result is right for one base model alone."""
    return any(adapter.needs_base(key) for _, adapter in sources for key in adapter.roles)
