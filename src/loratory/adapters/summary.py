"""What an adapter file holds, read from its header and its alphas alone: no torch, and quick for files of any size."""

import json
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal

from loratory.adapters.container import StoredTensor, file_hashes, stored_tensors
from loratory.adapters.keys import Component, Family, key_component
from loratory.adapters.layout import guess_family
from loratory.adapters.roles import (
    ALPHA,
    DORA_SCALE,
    LORA_DOWN,
    kind_of,
    refuse_other_files,
    roles_by_module,
    split_name,
)
from loratory.models.header import read_header

# Where the rank of a module can be read, and at which axis.
_RANK_ROLES = ((LORA_DOWN, 0), ("hada_w1_b", 0), ("lokr_w2_b", 0), ("lokr_w1_b", 0), ("a1.weight", 0))


@dataclass(frozen=True)
class ComponentSummary:
    """One trained component. ranks and alphas: how many modules have each value. parameters: numbers stored."""

    component: Component
    modules: int
    convolutions: int
    parameters: int
    ranks: dict[int, int]
    alphas: dict[float, int]


@dataclass(frozen=True)
class AdapterSummary:
    """One adapter file. hashes: whether `sshs_model_hash` in the metadata is that of the data."""

    path: Path
    size_bytes: int
    network_type: str
    family: Family | None
    family_reason: str
    base_model: str
    precisions: dict[str, int]
    components: tuple[ComponentSummary, ...]
    other_tensors: int
    hashes: Literal["ok", "wrong", "absent"]
    model_hash: str
    metadata: dict[str, str]

    @property
    def parameters(self) -> int:
        return sum(component.parameters for component in self.components)

    def tag_frequency(self) -> list[tuple[str, int]]:
        """Tags of the training captions with their counts over all folders, most frequent first."""
        counts: Counter[str] = Counter()
        for tags in _json_object(self.metadata.get("ss_tag_frequency", "")).values():
            if isinstance(tags, dict):
                counts.update({str(tag): n for tag, n in tags.items() if isinstance(n, int)})
        return counts.most_common()


def inspect_file(path: Path) -> AdapterSummary:
    """Summarizes an adapter file; raises LoratoryError for what `read_adapter` would refuse."""
    header = read_header(path)
    refuse_other_files(path, header.tensors)
    tensors, data_start = stored_tensors(path)
    modules = roles_by_module(header.tensors)
    by_component: dict[Component, list[StoredTensor]] = {}
    other = 0
    for tensor in tensors:
        component = key_component(tensor.name)
        if component is None:
            other += 1
        else:
            by_component.setdefault(component, []).append(tensor)
    with path.open("rb") as file:

        def read_scalar(tensor: StoredTensor) -> float | None:
            file.seek(data_start + tensor.start)
            return _scalar(file.read(tensor.end - tensor.start), tensor.dtype)

        components = tuple(
            _component_summary(
                component,
                by_component[component],
                {
                    tensor.name: read_scalar(tensor)
                    for tensor in by_component[component]
                    if split_name(tensor.name)[1] == ALPHA
                },
            )
            for component in sorted(by_component)
        )
    guess = guess_family(header.tensors, header.metadata)
    claimed = header.metadata.get("sshs_model_hash")
    model_hash = file_hashes(path, header.metadata).model
    return AdapterSummary(
        path=path,
        size_bytes=path.stat().st_size,
        network_type=_network_type(modules, tensors),
        family=guess.family,
        family_reason=guess.reason,
        base_model=header.metadata.get("ss_sd_model_name", ""),
        precisions=dict(Counter(tensor.dtype for tensor in tensors)),
        components=components,
        other_tensors=other,
        hashes="absent" if claimed is None else "ok" if claimed == model_hash else "wrong",
        model_hash=model_hash,
        metadata=dict(sorted(header.metadata.items())),
    )


def _component_summary(
    component: Component, tensors: list[StoredTensor], alphas: Mapping[str, float | None]
) -> ComponentSummary:
    ranks: dict[str, int] = {}
    convolutions: set[str] = set()
    for tensor in tensors:
        key, role = split_name(tensor.name)
        for rank_role, axis in _RANK_ROLES:
            if role == rank_role and len(tensor.shape) > axis:
                ranks.setdefault(key, tensor.shape[axis])
        if role == LORA_DOWN and prod(tensor.shape[2:]) > 1:
            convolutions.add(key)
    return ComponentSummary(
        component=component,
        modules=len({split_name(tensor.name)[0] for tensor in tensors}),
        convolutions=len(convolutions),
        parameters=sum(prod(tensor.shape) for tensor in tensors if tensor.name not in alphas),
        ranks=dict(Counter(ranks.values())),
        alphas=dict(Counter(alpha for alpha in alphas.values() if alpha is not None)),
    )


def _network_type(modules: Mapping[str, set[str]], tensors: list[StoredTensor]) -> str:
    """`lora`, `locon`, `dora`, `loha`, ...; kinds that appear together are joined by " + "."""
    kinds = {kind.name for roles in modules.values() if (kind := kind_of(roles)) is not None}
    if "lora" in kinds:
        kinds.remove("lora")
        if any(DORA_SCALE in roles for roles in modules.values()):
            kinds.add("dora")
        elif any(split_name(t.name)[1] == LORA_DOWN and prod(t.shape[2:]) > 1 for t in tensors):
            kinds.add("locon")
        else:
            kinds.add("lora")
    elif any(DORA_SCALE in roles for roles in modules.values()):
        return " + ".join(sorted(kinds)) + " with DoRA"
    return " + ".join(sorted(kinds))


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
        case _:
            return None


def _json_object(text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
