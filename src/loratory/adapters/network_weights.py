"""Going on from an adapter file (`network.network_weights`): what must fit, and ranks taken from it."""

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path

from torch import nn

from loratory.adapters.forms.base import is_alike
from loratory.adapters.keys import COMPONENT_NAMES, Component, Family, diffusers_module_key, key_component
from loratory.adapters.roles import ALPHA
from loratory.adapters.shapes import ModuleForm, module_form
from loratory.adapters.sizes import file_shapes, runs_on_peft
from loratory.adapters.targets import Sizes, Target
from loratory.adapters.tools.sources import AdapterSource
from loratory.config.schema import NetworkSettings
from loratory.errors import LoratoryError

_SETTING = "network.network_weights"
_TYPES_OF = {"lora": ("lora", "locon", "dora", "dylora"), "oft": ("diag-oft", "boft")}
"""Which network types write files of a kind; the others are called alike."""
_SAME_LAYERS = (
    "network_type, lycoris_preset, train_norm, block settings and trained parts must be those of the file; "
    "`loratory lora inspect` shows what is in it."
)


def sizes_from_weights(network: NetworkSettings, family: Family) -> Sizes | None:
    """Rank and alpha of each module of the file, by key, where `dim_from_weights` asks for them.

    Raises LoratoryError when the file is missing, not a LoRA, LoCon or DoRA, for another family, or has an alpha that
    is not finite.
    """
    if not network.dim_from_weights or network.network_weights is None:
        return None
    if not runs_on_peft(network):
        raise LoratoryError(
            f'network.dim_from_weights: only a plain "lora", "locon" or "dora" takes its ranks from a file, not '
            f'network_type = "{network.network_type}".',
            hint="Leave it out and give the sizes of the file; `loratory lora inspect` shows them.",
        )
    with AdapterSource(network.network_weights, _SETTING) as source:
        source.refuse_other_family(family)
        sizes: dict[str, tuple[int, float]] = {}
        for key, form in _lora_forms(source).items():
            assert form.rank is not None
            alpha = source.alpha(key)
            if alpha is not None and not isfinite(alpha):
                raise LoratoryError(
                    f"{_SETTING}: {key}.{ALPHA} in {source.path} is {alpha}, not a finite number.",
                    hint="`loratory lora verify` shows all that is wrong with a file.",
                )
            sizes[key] = (form.rank, alpha or float(form.rank))  # 0 is the rank too, as in sd-scripts
        return sizes


def refuse_misfit(
    network: NetworkSettings, targets: Sequence[Target], models: Mapping[str, nn.Module], family: Family
) -> None:
    """Raises LoratoryError unless the file of `network_weights`, if there is one, holds the network of `targets`.

    models: the base model by component; on the meta device will do. Reads the file's header alone.
    """
    if network.network_weights is None:
        return
    with AdapterSource(network.network_weights, _SETTING) as source:
        source.refuse_other_family(family)
        _refuse_other_kind(source, network)
        forms = _lora_forms(source) if runs_on_peft(network) else {}
        if forms:
            _refuse_other_type(source.path, forms, network)
        for key, target in _matched(source, targets, network, family).items():
            layer = models[target.component].get_submodule(target.path)
            if key in forms:
                _refuse_other_shape(source.path, key, forms[key], target, layer.get_parameter("weight").shape)
            else:
                _refuse_other_tensors(source, key, file_shapes(layer, target, network))


def _lora_forms(source: AdapterSource) -> dict[str, ModuleForm]:
    """The modules of a file that must hold complete pairs of lora_down and lora_up and nothing else, by key."""
    forms: dict[str, ModuleForm] = {}
    for key, kind in source.kinds.items():
        if kind.name != "lora":
            raise LoratoryError(
                f"{_SETTING}: {source.path} holds a network of the kind {kind.name}; it must be a LoRA, LoCon or DoRA.",
                hint="`loratory lora inspect` shows what is in a file.",
            )
        form = module_form(source.shapes(key))
        if form is None:
            raise LoratoryError(
                f"{_SETTING}: the tensors of {key} in {source.path} do not fit each other.",
                hint="`loratory lora verify` shows all that is wrong with a file.",
            )
        forms[key] = form
    return forms


def _refuse_other_kind(source: AdapterSource, network: NetworkSettings) -> None:
    """Norms may stand beside modules of every kind; a DyLoRA's file is a LoRA."""
    for held in sorted({kind.name for kind in source.kinds.values()} - {"norm"}):
        types = _TYPES_OF.get(held, (held,))
        if network.network_type not in types:
            named = " or ".join(f'"{name}"' for name in types)
            raise LoratoryError(
                f"{_SETTING}: {source.path} holds a network of the kind {held}; network_type is "
                f'"{network.network_type}".',
                hint=f"Set network.network_type = {named}, or merge the file into the base model with "
                "model.base_weights.",
            )


def _matched(
    source: AdapterSource, targets: Sequence[Target], network: NetworkSettings, family: Family
) -> dict[str, Target]:
    """The targets by the keys that the file has for them; it must hold all of them, and nothing else."""
    path, keys = source.path, source.roles
    matched: dict[str, Target] = {}
    missing: list[Target] = []
    for target in targets:
        other = diffusers_module_key(target.component, target.path, family)
        key = target.key if target.key in keys else other
        if key in keys:
            matched[key] = target
        else:
            missing.append(target)
    _refuse_left_over(path, [key for key in keys if key not in matched], targets, network)
    if missing:
        _refuse_missing(path, missing, matched, network)
    return matched


def _refuse_other_tensors(source: AdapterSource, key: str, wanted: Mapping[str, tuple[int, ...]]) -> None:
    """The module must have the very tensors of this network; alpha may be missing or more."""
    found = source.shapes(key)
    differing = [
        role
        for role in wanted.keys() | found.keys()
        if role != ALPHA and not (role in wanted and role in found and is_alike(wanted[role], found[role]))
    ]
    if differing:
        role = min(differing)
        raise LoratoryError(
            f"{_SETTING}: {source.path} holds another network: {key} has {_spoken(role, found)}, this network "
            f"{_spoken(role, wanted)}.",
            hint="network_type and all settings of its size must be those of the file; `loratory lora inspect` "
            "shows them.",
        )


def _spoken(role: str, shapes: Mapping[str, tuple[int, ...]]) -> str:
    return f"{role} of the shape {list(shapes[role])}" if role in shapes else f"no {role}"


def _refuse_other_type(path: Path, forms: Mapping[str, ModuleForm], network: NetworkSettings) -> None:
    has_dora = any(form.dora for form in forms.values())
    if has_dora != network.decomposes:
        held, fitting = ("a DoRA", '"dora"') if has_dora else ("no DoRA", '"lora" or "locon", without dora_wd')
        raise LoratoryError(
            f'{_SETTING}: {path} holds {held}; network_type is "{network.network_type}".',
            hint=f"Set network.network_type = {fitting}.",
        )
    if tucker := next((key for key, form in forms.items() if form.tucker), None):
        raise LoratoryError(
            f"{_SETTING}: {path} has convolutions in Tucker decomposition (lora_mid in {tucker}), which the network "
            f'of network_type = "{network.network_type}" does not have.',
            hint="Merge it into the base model with model.base_weights, and train a new adapter on top.",
        )


def _refuse_left_over(path: Path, keys: Sequence[str], targets: Sequence[Target], network: NetworkSettings) -> None:
    if not keys:
        return
    trained = {target.component for target in targets}
    components: set[Component] = {component for key in keys if (component := key_component(key)) is not None}
    untrained = [COMPONENT_NAMES[component] for component in sorted(components - trained)]
    if untrained:
        raise LoratoryError(
            f"{_SETTING}: {path} also changes the {' and the '.join(untrained)}, which this run does not train.",
            hint="Give it a learning rate above 0, or merge the file into the base model with model.base_weights.",
        )
    raise LoratoryError(
        f"{_SETTING}: {path} has {len(keys)} modules that are not part of this network, e.g. {min(keys)}.",
        hint='Convolutions need network_type = "locon", or "dora" with conv_dim.'
        if network.network_type in ("lora", "dora")
        else _SAME_LAYERS,
    )


def _refuse_missing(
    path: Path, missing: Sequence[Target], matched: Mapping[str, Target], network: NetworkSettings
) -> None:
    absent: set[Component] = {target.component for target in missing}
    absent -= {target.component for target in matched.values()}
    if absent:
        what = f"no network for the {' and the '.join(COMPONENT_NAMES[component] for component in sorted(absent))}"
    else:
        what = f"no values for {len(missing)} modules of this network, e.g. {missing[0].key}"
    raise LoratoryError(
        f"{_SETTING}: {path} has {what}.",
        hint="Set network.dim_from_weights = true to train what is in the file and nothing else."
        if runs_on_peft(network)
        else _SAME_LAYERS,
    )


def _refuse_other_shape(path: Path, key: str, form: ModuleForm, target: Target, weight: Sequence[int]) -> None:
    fits = is_alike(form.weight, weight)
    if form.rank != target.rank and fits:
        setting = "conv_dim" if target.is_conv else "network_dim"
        raise LoratoryError(
            f"{_SETTING}: {path} has rank {form.rank} in {key}; {setting} makes it {target.rank}.",
            hint="Set network.dim_from_weights = true to take ranks and alphas from the file.",
        )
    if not fits or form.dora == "input":
        raise LoratoryError(
            f"{_SETTING}: {path} was trained on a base model of other sizes, or with magnitudes per input: "
            f"{key} does not fit a layer of {list(weight)}.",
            hint="Use the base model the file was trained on, or one fine-tuned from it.",
        )
