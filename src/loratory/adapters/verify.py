"""Checks of adapter files: against the network they were saved from, and on their own."""

import math
from collections import Counter
from collections.abc import Collection, Mapping
from math import prod
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from loratory.adapters.container import file_hashes
from loratory.adapters.files import read_adapter
from loratory.adapters.keys import Component, key_component
from loratory.adapters.layout import is_known_module
from loratory.adapters.lora import Adapter, AdapterLayer
from loratory.adapters.roles import (
    ALPHA,
    DORA_SCALE,
    LORA_DOWN,
    LORA_MID,
    LORA_UP,
    kind_of,
    refuse_other_files,
    roles_by_module,
    split_name,
)
from loratory.dataset.findings import Finding, Severity
from loratory.models.header import Header, read_header

COMPONENT_NAMES: dict[Component, str] = {"unet": "UNet", "te1": "text encoder", "te2": "second text encoder"}
_PROBES = 8
_NAMED = 3


def compare_with_live(path: Path, adapter: Adapter) -> float:
    """How far the weight changes that a file describes are from those of the network in memory.

    For each module both changes, scale * up @ down, are applied to the same random vectors, and the largest difference
    is taken relative to the largest output; the answer is that of the worst module: 0 when nothing was rounded, about
    5e-4 for fp16, 4e-3 for bf16. Numbers too small for the file's format count as one rounding, or the file of a
    barely trained adapter would seem wrong. DoRA magnitudes are compared directly. Infinite when tensors are missing,
    unknown, of another shape, or not finite. Computed in float64 on the CPU from the file's own alphas, so it shares
    nothing with the forward pass. Raises LoratoryError as `read_adapter`.
    """
    state = read_adapter(path).state_dict
    expected = {f"{layer.target.key}.{role}" for layer in adapter.layers for role in (ALPHA, *layer.tensors())}
    if state.keys() != expected:
        return math.inf
    differences = [_layer_difference(layer, state) for layer in adapter.layers]
    return max(differences) if all(map(math.isfinite, differences)) else math.inf


def _layer_difference(layer: AdapterLayer, state: dict[str, Tensor]) -> float:
    stored = {role: state[f"{layer.target.key}.{role}"] for role in (ALPHA, *layer.tensors())}
    down, up = _matrix(layer.down), _matrix(layer.up)
    stored_down, stored_up = _matrix(stored[LORA_DOWN]), _matrix(stored[LORA_UP])
    if stored_down.shape != down.shape or stored_up.shape != up.shape:
        return math.inf
    generator = torch.Generator().manual_seed(down.shape[1])
    probes = torch.randn((down.shape[1], _PROBES), dtype=torch.float64, generator=generator)
    ranks = down @ probes
    live = layer.target.scale * (up @ ranks)
    read = float(stored[ALPHA]) / stored_down.shape[0] * (stored_up @ (stored_down @ probes))
    # Below its normal range a format rounds by half its smallest step, whatever the number: this much in the output,
    # in units of the relative rounding of the normal range.
    tiny = torch.finfo(stored[LORA_UP].dtype).smallest_normal
    reach = ranks.abs().sum(0).max() + up.abs().sum(1).max() * probes.abs().sum(0).max()
    difference = _relative_difference(live, read, tiny * layer.target.scale * float(reach))
    if layer.magnitude is not None:
        magnitude = layer.magnitude.detach().to("cpu", torch.float64).flatten()
        difference = max(difference, _relative_difference(magnitude, stored[DORA_SCALE].double().flatten(), 0.0))
    return difference


def _matrix(tensor: Tensor) -> Tensor:
    return tensor.detach().flatten(1).to("cpu", torch.float64)


def _relative_difference(expected: Tensor, found: Tensor, allowance: float) -> float:
    if found.shape != expected.shape:
        return math.inf
    difference = float((found - expected).abs().max())
    return difference / (float(expected.abs().max()) + allowance) if difference else 0.0


def verify_file(path: Path) -> list[Finding]:
    """What is wrong, or worth knowing, about an adapter file; an empty list means that nothing is.

    Recomputes the hashes its metadata claims; checks that each module is complete, that shapes agree, that values are
    finite, that alpha is there, that front ends know the names, and that something was learned in each component.
    Reads one tensor at a time. Raises LoratoryError for what `read_adapter` would refuse.
    """
    header = read_header(path)
    refuse_other_files(path, header.tensors)
    report = _Report(path)
    _check_hashes(report, header)
    modules = roles_by_module(header.tensors)
    _check_modules(report, header, modules)
    _check_values(report, header)
    if any(DORA_SCALE in roles for roles in modules.values()):
        report.add(
            "dora-support",
            "note",
            "Front ends read DoRA files differently: AUTOMATIC1111 knows magnitudes per input only, diffusers drops "
            "them. Try the file where it will be used.",
        )
    return report.findings


class _Report:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.findings: list[Finding] = []

    def add(self, rule: str, severity: Severity, message: str) -> None:
        self.findings.append(Finding(rule, severity, self.path, message))

    def add_named(self, rule: str, severity: Severity, names: Collection[str], what: str) -> None:
        """One finding for all modules or tensors with the same defect, naming the first few."""
        if names:
            first = sorted(names)[:_NAMED]
            rest = f" and {len(names) - len(first)} more" if len(names) > len(first) else ""
            self.add(rule, severity, f"{what}: {', '.join(first)}{rest}.")


def _check_hashes(report: _Report, header: Header) -> None:
    found = file_hashes(header.path, header.metadata)
    claims = (
        ("sshs_model_hash", found.model),
        ("sshs_legacy_hash", found.legacy),
        ("modelspec.hash_sha256", f"0x{found.model}"),
    )
    wrong = [name for name, value in claims if header.metadata.get(name, value).lower() != value]
    if "sshs_model_hash" in wrong or "modelspec.hash_sha256" in wrong:
        report.add(
            "hash",
            "error",
            f"{' and '.join(wrong)} in the metadata are not those of the data: the tensors were changed or damaged "
            "after the file was written.",
        )
    elif wrong:
        report.add(
            "hash",
            "warning",
            "sshs_legacy_hash is not that of the file: its training metadata was edited after it was written.",
        )
    elif "sshs_model_hash" not in header.metadata:
        report.add("hash", "note", "There is no sshs_model_hash in the metadata, so damage cannot be told.")


def _check_modules(report: _Report, header: Header, modules: dict[str, set[str]]) -> None:
    shapes = {name: entry.shape for name, entry in header.tensors.items()}
    unknown_names = [key for key in modules if not is_known_module(key)]
    incomplete: list[str] = []
    unknown_roles: list[str] = []
    mismatched: list[str] = []
    without_alpha: list[str] = []
    for key, roles in modules.items():
        kind = kind_of(roles)
        if kind is None:
            unknown_roles += [f"{key}.{role}" for role in roles]
            continue
        complete = [required for required in kind.required if required <= roles]
        if not complete:
            incomplete.append(key)
            continue
        unknown_roles += [f"{key}.{role}" for role in roles - kind.optional - frozenset().union(*kind.required)]
        if kind.name == "lora" and not _shapes_agree(shapes, key):
            mismatched.append(key)
        if ALPHA in kind.optional and kind.name in ("lora", "loha", "lokr", "glora") and ALPHA not in roles:
            without_alpha.append(key)
    report.add_named("incomplete", "error", incomplete, "Modules without all the tensors they need")
    report.add_named("shape", "error", mismatched, "Modules whose lora_down and lora_up do not fit each other")
    report.add_named("unknown-tensor", "warning", unknown_roles, "Tensors that no front end reads")
    report.add_named("unknown-module", "warning", unknown_names, "Modules that no SD 1.x, SD 2.x or SDXL model has")
    report.add_named("alpha", "warning", without_alpha, "Modules without alpha, which loaders take as the rank")


def _shapes_agree(shapes: Mapping[str, tuple[int, ...]], key: str) -> bool:
    """lora_down (r, in, ...) and lora_up (out, r, 1...) of as many axes; dora_scale one number per row or column."""
    down, up = shapes[f"{key}.{LORA_DOWN}"], shapes[f"{key}.{LORA_UP}"]
    if len(down) < 2 or len(up) < 2:
        return False
    middle = shapes.get(f"{key}.{LORA_MID}")
    if middle is not None:
        return middle[:2] == (up[1], down[0])
    scale = shapes.get(f"{key}.{DORA_SCALE}")
    fits = scale is None or prod(scale) in (up[0], down[1])
    return down[0] == up[1] and len(down) == len(up) and prod(up[2:]) == 1 and fits


def _check_values(report: _Report, header: Header) -> None:
    not_finite: list[str] = []
    modules: Counter[Component] = Counter()
    untrained: dict[Component, list[str]] = {}
    with safe_open(header.path, framework="pt") as file:
        for name in header.tensors:
            tensor = file.get_tensor(name)
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                not_finite.append(name)
            key, role = split_name(name)
            component = key_component(key)
            if role == LORA_UP and component is not None:
                modules[component] += 1
                if not bool(tensor.any()):
                    untrained.setdefault(component, []).append(key)
    report.add_named("not-finite", "error", not_finite, "Tensors with infinite or undefined values (NaN)")
    for component, keys in untrained.items():
        name = COMPONENT_NAMES[component]
        if len(keys) == modules[component]:
            report.add(
                "untrained",
                "warning",
                f"The {name} part changes nothing: lora_up is zero in all {len(keys)} modules. It was not trained, or "
                "its learning rate was too small for the precision of the file.",
            )
        else:
            report.add_named(
                "untrained", "note", keys, f"{len(keys)} of {modules[component]} modules of the {name} change nothing"
            )
