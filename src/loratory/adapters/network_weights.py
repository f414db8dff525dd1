"""Going on from an adapter file (`network.network_weights`): what must fit, and ranks taken from it."""

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

from torch import nn

from loratory.adapters.keys import Component, Family, diffusers_module_key, key_component
from loratory.adapters.modules import COMPONENT_NAMES, FileModule, alphas, read_modules, refuse_other_family
from loratory.adapters.targets import Sizes, Target
from loratory.config.schema import NetworkSettings
from loratory.errors import LoratoryError

_SETTING = "network.network_weights"


def sizes_from_weights(network: NetworkSettings, family: Family) -> Sizes | None:
    """Rank and alpha of each module of the file, by key, where `dim_from_weights` asks for them.

    Raises LoratoryError when the file is missing, not a LoRA, LoCon or DoRA, or for another family.
    """
    if not network.dim_from_weights or network.network_weights is None:
        return None
    header, modules = read_modules(network.network_weights, _SETTING)
    refuse_other_family(header, family, _SETTING)
    alpha = alphas(network.network_weights, modules)
    return {key: (module.rank, alpha[key]) for key, module in modules.items()}


def refuse_misfit(
    network: NetworkSettings, targets: Sequence[Target], models: Mapping[str, nn.Module], family: Family
) -> None:
    """Raises LoratoryError unless the file of `network_weights`, if there is one, holds the network of `targets`.

    models: the base model by component; on the meta device will do. Reads the file's header alone.
    """
    path = network.network_weights
    if path is None:
        return
    header, modules = read_modules(path, _SETTING)
    refuse_other_family(header, family, _SETTING)
    _refuse_other_type(path, modules, network)
    matched: dict[str, Target] = {}
    missing: list[Target] = []
    for target in targets:
        other = diffusers_module_key(target.component, target.path, family)
        key = target.key if target.key in modules else other
        if key in modules:
            matched[key] = target
        else:
            missing.append(target)
    _refuse_left_over(path, [key for key in modules if key not in matched], targets)
    if missing:
        _refuse_missing(path, missing, matched)
    for key, target in matched.items():
        _refuse_other_shape(path, modules[key], target, models[target.component])


def _refuse_other_type(path: Path, modules: Mapping[str, FileModule], network: NetworkSettings) -> None:
    has_dora = any(module.dora is not None for module in modules.values())
    if has_dora != (network.network_type == "dora"):
        held, fitting = ("a DoRA", '"dora"') if has_dora else ("no DoRA", '"lora" or "locon"')
        raise LoratoryError(
            f'{_SETTING}: {path} holds {held}; network_type is "{network.network_type}".',
            hint=f"Set network.network_type = {fitting}.",
        )
    if tucker := next((key for key, module in modules.items() if module.mid is not None), None):
        raise LoratoryError(
            f"{_SETTING}: {path} has convolutions in Tucker decomposition (lora_mid in {tucker}), which the network "
            f'of network_type = "{network.network_type}" does not have.',
            hint="Merge it into the base model with model.base_weights, and train a new adapter on top.",
        )


def _refuse_left_over(path: Path, keys: Sequence[str], targets: Sequence[Target]) -> None:
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
        hint='Convolutions need network_type = "locon", or "dora" with conv_dim.',
    )


def _refuse_missing(path: Path, missing: Sequence[Target], matched: Mapping[str, Target]) -> None:
    absent: set[Component] = {target.component for target in missing}
    absent -= {target.component for target in matched.values()}
    if absent:
        what = f"no network for the {' and the '.join(COMPONENT_NAMES[component] for component in sorted(absent))}"
    else:
        what = f"{len(missing)} modules of this network not, e.g. {missing[0].key}"
    raise LoratoryError(
        f"{_SETTING}: {path} has {what}.",
        hint="Set network.dim_from_weights = true to train what is in the file and nothing else.",
    )


def _refuse_other_shape(path: Path, module: FileModule, target: Target, model: nn.Module) -> None:
    weight = model.get_parameter(f"{target.path}.weight").shape
    if module.rank != target.rank and module.fits(weight):
        key = "conv_dim" if target.is_conv else "network_dim"
        raise LoratoryError(
            f"{_SETTING}: {path} has rank {module.rank} in {module.key}; {key} makes it {target.rank}.",
            hint="Set network.dim_from_weights = true to take ranks and alphas from the file.",
        )
    per_output = module.dora is None or module.dora[0] == prod(module.dora) == weight[0]
    if not module.fits(weight) or not per_output:
        raise LoratoryError(
            f"{_SETTING}: {path} was trained on a base model of other sizes, or with magnitudes per input: "
            f"{module.key} does not fit a layer of {list(weight)}.",
            hint="Use the base model the file was trained on, or one fine-tuned from it.",
        )
