"""What an adapter file holds, read from its header and its single numbers alone: no torch, and quick for any size."""

import json
import struct
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal, TypeVar

from loratory.adapters.container import StoredTensor, check_container, file_hashes, stored_tensors
from loratory.adapters.keys import Component, Family, key_component
from loratory.adapters.layout import guess_family, is_kernel_module
from loratory.adapters.roles import ALPHA, kind_of, refuse_other_files, split_name
from loratory.adapters.shapes import ModuleForm, module_form
from loratory.models.header import read_header

_Value = TypeVar("_Value", bound=Hashable)
_COMPONENTS: tuple[Component, ...] = ("te1", "te2", "unet")
HashState = Literal["ok", "wrong", "absent", "unread", "foreign"]


@dataclass(frozen=True)
class ComponentSummary:
    """One trained component. ranks and alphas: how many modules have each value. parameters: numbers stored."""

    component: Component
    modules: int
    convolutions: int
    norms: int
    parameters: int
    ranks: dict[int, int]
    alphas: dict[float, int]


@dataclass(frozen=True)
class AdapterSummary:
    """One adapter file.

    kinds: how many modules there are of each kind, most first. traits: what sets modules of a kind apart ("tucker
    core", "magnitude per output", "first factor 8 x 8", "blocks of 16", ...), with their numbers. incomplete: modules
    whose tensors do not fit each other; `verify` names them. hashes: whether `sshs_model_hash` in the metadata is that
    of the data, see `hash_state`; model_hash is empty when that was not read.
    """

    path: Path
    size_bytes: int
    network_type: str
    kinds: dict[str, int]
    traits: dict[str, int]
    incomplete: int
    family: Family | None
    family_reason: str
    base_model: str
    precisions: dict[str, int]
    components: tuple[ComponentSummary, ...]
    other_tensors: int
    hashes: HashState
    model_hash: str
    metadata: dict[str, str]

    @property
    def parameters(self) -> int:
        return sum(component.parameters for component in self.components)

    def tag_frequency(self) -> list[tuple[str, int]]:
        """Tags of the training captions with their counts over all folders, most frequent first."""
        counts: Counter[str] = Counter()
        for tags in json_object(self.metadata.get("ss_tag_frequency", "")).values():
            if isinstance(tags, dict):
                counts.update({str(tag): n for tag, n in tags.items() if isinstance(n, int)})
        return counts.most_common()


@dataclass(frozen=True)
class Module:
    """One module of a file. form: None where its tensors do not fit each other. alpha: None where there is none."""

    key: str
    component: Component | None
    shapes: dict[str, tuple[int, ...]]
    form: ModuleForm | None
    alpha: float | None


def read_modules(path: Path) -> list[Module]:
    """The modules of an adapter file, by key; raises LoratoryError for what `read_adapter` would refuse."""
    header = read_header(path)
    refuse_other_files(path, header.tensors)
    check_container(path)
    tensors, data_start = stored_tensors(path)
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    alphas: dict[str, float | None] = {}
    with path.open("rb") as file:
        for tensor in tensors:
            key, role = split_name(tensor.name)
            shapes.setdefault(key, {})[role] = tensor.shape
            if role == ALPHA:
                file.seek(data_start + tensor.start)
                alphas[key] = _scalar(file.read(min(tensor.end - tensor.start, 8)), tensor.dtype)
    return [
        Module(key, key_component(key), own, module_form(own), alphas.get(key)) for key, own in sorted(shapes.items())
    ]


def inspect_file(path: Path, *, check_hash: bool = True) -> AdapterSummary:
    """Summarizes an adapter file; raises LoratoryError for what `read_adapter` would refuse.

    check_hash: reads all of the file; without it only the header and the alphas are read.
    """
    modules = read_modules(path)
    header = read_header(path)
    tensors, _ = stored_tensors(path)
    known = [module for module in modules if module.component is not None]
    guess = guess_family(header.tensors, header.metadata)
    model_hash = file_hashes(path, header.metadata).model if check_hash else ""
    return AdapterSummary(
        path=path,
        size_bytes=path.stat().st_size,
        network_type=_network_type(known),
        kinds=_counts(kind for module in known if (kind := _kind(module))),
        traits=_counts(trait for module in known for trait in _traits(module)),
        incomplete=sum(module.form is None for module in known),
        family=guess.family,
        family_reason=guess.reason,
        base_model=header.metadata.get("ss_sd_model_name", ""),
        precisions=_counts(tensor.dtype for tensor in tensors),
        components=tuple(
            _component_summary(component, own, tensors)
            for component in _COMPONENTS
            if (own := [module for module in known if module.component == component])
        ),
        other_tensors=sum(key_component(tensor.name) is None for tensor in tensors),
        hashes=hash_state(header.metadata, model_hash),
        model_hash=model_hash,
        metadata=dict(sorted(header.metadata.items())),
    )


def hash_state(metadata: Mapping[str, str], model_hash: str) -> HashState:
    """Whether the file is the one that `sshs_model_hash` in its metadata was computed for.

    model_hash: that of the data, empty when it was not read. "foreign": LyCORIS 4 hashes the tensors one by one in an
    order that the file does not keep (and writes 0x before it), so nobody can check it.
    """
    claimed = metadata.get("sshs_model_hash")
    if claimed is None:
        return "absent"
    if claimed.startswith("0x"):
        return "foreign"
    if not model_hash:
        return "unread"
    return "ok" if claimed == model_hash else "wrong"


def json_object(text: str) -> dict[str, object]:
    """The JSON object that a value of the metadata holds; empty for anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _component_summary(component: Component, modules: list[Module], tensors: list[StoredTensor]) -> ComponentSummary:
    keys = {module.key for module in modules}
    own = [tensor for tensor in tensors if split_name(tensor.name)[0] in keys]
    return ComponentSummary(
        component=component,
        modules=len(modules),
        convolutions=sum(is_kernel_module(module.key) for module in modules),
        norms=sum(module.form is not None and module.form.name == "norm" for module in modules),
        parameters=sum(prod(tensor.shape) for tensor in own if split_name(tensor.name)[1] not in (ALPHA, "on_input")),
        ranks=_counts(module.form.rank for module in modules if module.form and module.form.rank is not None),
        alphas=_counts(module.alpha for module in modules if module.alpha is not None),
    )


def _kind(module: Module) -> str | None:
    """The kind of a module, also of one that is incomplete."""
    if module.form is not None:
        return module.form.name
    kind = kind_of(set(module.shapes))
    return None if kind is None else kind.name


def _traits(module: Module) -> Iterable[str]:
    form = module.form
    if form is None:
        return
    if form.tucker:
        yield "tucker core"
    if form.dora:
        yield f"magnitude per {form.dora}"
    if form.first_factor:
        yield f"first factor {form.first_factor[0]} x {form.first_factor[1]}"
        yield f"whole {form.whole}" if form.whole else "low-rank w1 and w2"
    if form.block_size:
        yield f"blocks of {form.block_size}"
        if form.name == "boft":
            yield f"{form.stages}-stage"
        if module.alpha:
            yield f"constraint {module.alpha:g}"
        if form.rescaled:
            yield "rescaled"
    if form.on_bias and form.name == "full":
        yield "bias too"
    if form.old_layout:
        yield "old layout"


def _network_type(modules: list[Module]) -> str:
    """`lora`, `locon`, `dora`, `loha`, ...; kinds that appear together are joined by " + ", most modules first."""
    parts: list[str] = []
    for kind in _counts(kind for module in modules if (kind := _kind(module))):
        own = [module for module in modules if _kind(module) == kind]
        forms = [module.form for module in own if module.form is not None]
        dora = sorted({form.dora for form in forms if form.dora})
        name = kind
        if kind == "lora" and dora:
            name = "dora"
        elif kind == "lora" and any(is_kernel_module(module.key) for module in own):
            name = "locon"
        elif dora:
            name += " with DoRA"
        if any(form.tucker for form in forms):
            name += " with tucker"
        parts.append(name)
    return " + ".join(parts)


def _counts(values: Iterable[_Value]) -> dict[_Value, int]:
    """How often each value is there, most frequent first."""
    return dict(Counter(values).most_common())


def _scalar(data: bytes, dtype: str) -> float | None:
    """The value of a stored number; None for a type that alphas never have."""
    match dtype, len(data):
        case ("F32", 4):
            return struct.unpack("<f", data)[0]
        case ("F16", 2):
            return struct.unpack("<e", data)[0]
        case ("BF16", 2):  # the upper half of a float32
            return struct.unpack("<f", b"\0\0" + data)[0]
        case ("F64", 8):
            return struct.unpack("<d", data)[0]
        case ("I64", 8):  # LyCORIS stores the constraint 0 of a rotation as it was given
            return float(struct.unpack("<q", data)[0])
        case ("I32", 4):
            return float(struct.unpack("<i", data)[0])
        case _:
            return None
