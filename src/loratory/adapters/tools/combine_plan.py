"""What each module of several adapters becomes when they are merged into one file; no weight is read for that."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal

from loratory.adapters.keys import Family
from loratory.adapters.layout import FAMILY_NAMES, is_known_module
from loratory.adapters.roles import ALPHA, DORA_SCALE, LORA_DOWN, LORA_MID, LORA_UP
from loratory.adapters.shapes import module_form
from loratory.adapters.tools.checkpoints import Checkpoint, Layer
from loratory.adapters.tools.naming import ModuleName, kernel_of, key_of_module, module_of_key
from loratory.adapters.tools.sources import AdapterSource, Ingredient, Source
from loratory.errors import LoratoryError

Form = Literal["pair", "cut", "diff", "norm"]
"""What a module becomes: a LoRA of all ranks, a LoRA of fewer, the whole difference, or that of a norm."""


@dataclass(frozen=True)
class Module:
    """A module of the result. shape: of the layer's weight, () for a pair, which does not need it."""

    key: str
    form: Form
    sources: list[Source]
    shape: tuple[int, ...]
    tensors: dict[str, tuple[int, ...]]
    layer: Layer | None


def family_of_all(adapters: Sequence[AdapterSource], model: Checkpoint | None) -> Family | None:
    """The family of all adapters, None where none of them tells; LoratoryError where they are of several, or for models
    of another kind."""
    if model is not None:
        for adapter in adapters:
            adapter.refuse_other_family(model.family)
        return model.family
    found: Family | None = None
    telling: Path | None = None
    for adapter in adapters:
        guess = adapter.family
        strange = next((key for key in adapter.roles if not is_known_module(key)), None)
        if strange is not None:
            raise LoratoryError(
                f"{adapter.path} has a module that no SD 1.x, SD 2.x or SDXL model has: {strange}.",
                hint="It is for another kind of model, which Loratory does not know.",
            )
        if guess.family is None:
            continue
        if found is not None and guess.family != found:
            raise LoratoryError(
                f"{telling} is for {FAMILY_NAMES[found]} models and {adapter.path} for {FAMILY_NAMES[guess.family]} "
                f"models ({guess.reason}): they cannot be merged.",
                hint="An adapter works with models of its own family alone.",
            )
        found, telling = guess.family, adapter.path
    return found


def by_layer(sources: Sequence[tuple[Ingredient, AdapterSource]], family: Family | None) -> dict[str, list[Source]]:
    """The sources of each module of the result, by its key: one layer may have several names in files."""
    keys: dict[ModuleName | str, str] = {}
    found: dict[str, list[Source]] = {}
    for ingredient, adapter in sources:
        for key in adapter.roles:
            strength = ingredient.strength_of(key)
            if not strength:
                continue
            module = module_of_key(key)
            if module is not None and family is not None:
                keys.setdefault(module, key_of_module(module, family, "kohya"))
            found.setdefault(keys.setdefault(module or key, key), []).append(Source(adapter, key, strength))
    if not found:
        raise LoratoryError("The weights are all 0, so there is nothing to merge.")
    return found


def plan(
    found: Mapping[str, list[Source]], family: Family | None, model: Checkpoint | None, rank: int | None
) -> list[Module]:
    """The modules of the result. rank: the most that one may have; None for no limit, and for exact results alone.

    Raises LoratoryError for sources that fit neither each other nor the model, and for those whose change cannot be
    told without a model where there is none.
    """
    layers = model.by_key() if model is not None else {}
    modules: list[Module] = []
    for key, sources in found.items():
        if is_pair(sources):
            modules.append(_pair_module(key, sources, rank))
            continue
        needy = next((source for source in sources if source.adapter.needs_base(source.key)), None)
        if needy is not None and model is None:
            raise LoratoryError(
                f"{needy.adapter.path}: what {needy.key} adds depends on the weights of the base model.",
                hint="Name that model with --base; the result is then for that model alone.",
            )
        layer = layers.get(sources[0].key)
        if model is not None and layer is None:
            raise LoratoryError(
                f"{sources[0].adapter.path} has a module that {model.info.path} has no layer for: {sources[0].key}."
            )
        shape = layer.weight.shape if layer is not None else _own_shape(sources[0], family)
        for source in sources:
            source.adapter.refuse_misfit(source.key, shape)
        modules.append(_dense_module(key, sources, shape, layer, rank))
    return modules


def _own_shape(source: Source, family: Family | None) -> tuple[int, ...]:
    """The shape of the layer's weight as the tensors of a module and its name tell it."""
    adapter, key, _ = source
    form = module_form({role: adapter.shape(key, role) for role in adapter.roles[key]})
    if form is None:
        raise LoratoryError(
            f"{adapter.path}: the tensors of {key} do not fit each other.",
            hint="`loratory lora verify` shows all that is wrong with a file.",
        )
    module = module_of_key(key)
    if module is None or len(form.weight) != 2:
        return form.weight
    # Some kinds keep the kernel flattened into the inputs. Whether a 1x1 is written out makes no difference.
    kernel = kernel_of(module, family or "sd1")
    outputs, inputs = form.weight
    return (outputs, inputs // prod(kernel), *kernel)


def is_pair(sources: Sequence[Source]) -> bool:
    return all(
        source.adapter.kinds[source.key].name == "lora" and DORA_SCALE not in source.adapter.roles[source.key]
        for source in sources
    )


def _pair_module(key: str, sources: list[Source], rank: int | None) -> Module:
    """A LoRA of all the ranks of its sources, or of `rank` where that is fewer."""
    shapes = [_pair_shape(source) for source in sources]
    first = _squeezed(shapes[0])
    for source, shape in zip(sources, shapes, strict=True):
        if _squeezed(shape) != first:
            raise LoratoryError(
                f"{sources[0].adapter.path} and {source.adapter.path} were trained on models of different sizes: "
                f"{source.key} is for layers of {list(first)} in one and {list(_squeezed(shape))} in the other."
            )
    weight = max(shapes, key=len)  # a 1x1 convolution may be written as a linear layer
    ranks = sum(_inner_rank(source) for source in sources)
    if rank is None or rank >= ranks:
        return Module(key, "pair", sources, weight, _pair_tensors(weight, ranks), None)
    return Module(key, "cut", sources, weight, _pair_tensors(weight, _most(weight, rank)), None)


def _pair_shape(source: Source) -> tuple[int, ...]:
    """The shape of the layer that a LoRA module is for. Raises LoratoryError where its tensors do not fit together."""
    adapter, key, _ = source
    down, up = adapter.shape(key, LORA_DOWN), adapter.shape(key, LORA_UP)
    if len(down) < 2 or len(up) < 2:
        raise LoratoryError(f"{adapter.path}: the shapes {list(down)} and {list(up)} in {key} are not those of a LoRA.")
    kernel = adapter.shape(key, LORA_MID)[2:] if LORA_MID in adapter.roles[key] else down[2:]
    shape = (up[0], down[1], *kernel)
    adapter.refuse_misfit(key, shape)
    return shape


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:2] if prod(shape[2:]) == 1 else shape


def _inner_rank(source: Source) -> int:
    """The rank of a module written as a plain pair: of a Tucker decomposition, that of its outer side."""
    return source.adapter.shape(source.key, LORA_UP)[1]


def _pair_tensors(weight: tuple[int, ...], rank: int) -> dict[str, tuple[int, ...]]:
    outputs, inputs, *kernel = weight
    return {LORA_DOWN: (rank, inputs, *kernel), LORA_UP: (outputs, rank, *[1] * len(kernel)), ALPHA: ()}


def _dense_module(
    key: str, sources: list[Source], shape: tuple[int, ...], layer: Layer | None, rank: int | None
) -> Module:
    on_bias = any(source.adapter.changes_bias(source.key) for source in sources)
    if all(source.adapter.kinds[source.key].name == "norm" for source in sources):
        tensors = {"w_norm": shape} | ({"b_norm": shape} if on_bias else {})
        return Module(key, "norm", sources, shape, tensors, layer)
    if rank is None or len(shape) < 2:
        tensors = {"diff": shape} | ({"diff_b": shape[:1]} if on_bias else {})
        return Module(key, "diff", sources, shape, tensors, layer)
    return Module(key, "cut", sources, shape, _pair_tensors(shape, _most(shape, rank)), layer)


def _most(weight: tuple[int, ...], rank: int) -> int:
    """`rank`, or that of the layer itself, of which no more singular values can be kept."""
    return min(rank, weight[0], prod(weight[1:]))
