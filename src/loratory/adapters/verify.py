"""Checks of adapter files on their own."""

from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

from loratory.adapters.compatibility import features, spoken, support
from loratory.adapters.container import file_hashes
from loratory.adapters.keys import COMPONENT_NAMES, Component, Family
from loratory.adapters.layout import guess_family, is_known_module
from loratory.adapters.roles import ALPHA, DORA_SCALE, parts_of
from loratory.adapters.shapes import ModuleForm
from loratory.adapters.summary import Module, hash_state, json_object, read_modules
from loratory.adapters.tools.stream import TensorFile
from loratory.dataset.findings import Finding, Severity
from loratory.models.header import Header, read_header

_NAMED = 3
# The default of LyCORIS' block_size.
_DYLORA_BLOCK = 4


def verify_file(path: Path) -> list[Finding]:
    """What is wrong, or worth knowing, about an adapter file; an empty list means that nothing is.

    Recomputes the hashes its metadata claims; checks that each module is complete, that shapes agree, that values are
    finite, that alpha is there, that front ends know the names, and that something was learned in each component.
    Reads one tensor at a time. Raises LoratoryError for what `read_adapter` would refuse.
    """
    modules = read_modules(path)
    header = read_header(path)
    report = _Report(path)
    _check_hashes(report, header)
    _check_modules(report, modules)
    _check_values(report, path, modules)
    _check_strength(report, header)
    _check_loaders(report, modules, guess_family(header.tensors, header.metadata).family)
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
    state = hash_state(header.metadata, found.model)
    claims = (
        *((("sshs_model_hash", found.model),) if state != "foreign" else ()),
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
    elif state == "absent":
        report.add("hash", "note", "There is no sshs_model_hash in the metadata, so damage cannot be told.")
    elif state == "foreign":
        report.add("hash", "note", "Its sshs_model_hash is of LyCORIS' own kind, which no file allows to check.")


def _check_modules(report: _Report, modules: list[Module]) -> None:
    incomplete: list[str] = []
    unknown_roles: list[str] = []
    mismatched: list[str] = []
    without_alpha: list[str] = []
    without_limit: list[str] = []
    alpha_zero: list[str] = []
    old_layout: list[str] = []
    for module in modules:
        key, roles, form = module.key, module.shapes.keys(), module.form
        kind, missing, unknown = parts_of(roles)
        unknown_roles += [f"{key}.{role}" if role else key for role in unknown]
        if kind is None:
            continue
        if missing:
            incomplete.append(key)
            continue
        if form is None:
            mismatched.append(key)
            continue
        if form.old_layout:
            old_layout.append(key)
        # Where both matrices of LoKr are whole, nothing is scaled.
        if form.name in ("lora", "loha", "lokr", "glora") and form.whole != "w1 and w2":
            if ALPHA not in roles:
                without_alpha.append(key)
            elif module.alpha == 0:
                alpha_zero.append(key)
        elif form.block_size and ALPHA not in roles:
            without_limit.append(key)
    unknown_names = [module.key for module in modules if not is_known_module(module.key)]
    named: tuple[tuple[str, Severity, list[str], str], ...] = (
        ("incomplete", "error", incomplete, "Modules without all the tensors they need"),
        ("shape", "error", mismatched, "Modules whose tensors do not fit each other"),
        ("unknown-tensor", "warning", unknown_roles, "Tensors that no front end reads"),
        ("unknown-module", "warning", unknown_names, "Modules that no SD 1.x, SD 2.x or SDXL model has"),
        ("alpha", "warning", without_alpha, "Modules without alpha, which loaders take as the rank"),
        (
            "alpha",
            "warning",
            alpha_zero,
            "Modules with alpha 0, which AUTOMATIC1111 and ComfyUI take as no change and LyCORIS as the rank",
        ),
        ("alpha", "warning", without_limit, "Rotations without alpha (their constraint), which LyCORIS cannot load"),
        (
            "layout",
            "warning",
            old_layout,
            "GLoRA in the layout of older versions of LyCORIS, which its newer ones refuse",
        ),
    )
    for rule, severity, keys, what in named:
        report.add_named(rule, severity, keys, what)


def _check_strength(report: _Report, header: Header) -> None:
    """LyCORIS trains each block of a DyLoRA at alpha / (number of the block), and writes alpha as it is beside the full
    rank: at strength 1 its files are as many times weaker as a block has ranks."""
    arguments = json_object(header.metadata.get("ss_network_args", ""))
    trained_here = "ss_loratory_version" in header.metadata
    if header.metadata.get("ss_network_module") == "lycoris.kohya" and arguments.get("algo") == "dylora":
        size = str(arguments.get("block_size", _DYLORA_BLOCK))
        if not trained_here and size != "1":
            report.add(
                "strength",
                "note",
                f"A DyLoRA that LyCORIS trained acts {size} times weaker than it did in training; try it at strength "
                f"{size}.",
            )


def _check_loaders(report: _Report, modules: list[Module], family: Family | None) -> None:
    found = features(modules, family)
    answers = support(found) if found else {}
    limited = [f"{loader} ({spoken(answer)})" for loader, answer in answers.items() if answer.verdict != "yes"]
    if limited:
        report.add("loaders", "note", f"Not taken as it was trained by: {', '.join(limited)}.")


def _check_values(report: _Report, path: Path, modules: list[Module]) -> None:
    not_finite: list[str] = []
    trained: Counter[Component] = Counter()
    untrained: dict[Component, list[str]] = {}
    with TensorFile(path) as file:
        for module in modules:
            tensors = {role: file.read(f"{module.key}.{role}" if role else module.key) for role in module.shapes}
            for role, tensor in tensors.items():
                if tensor.is_floating_point() and not bool(torch.isfinite(tensor.float()).all()):
                    not_finite.append(f"{module.key}.{role}" if role else module.key)
            if module.component is None or module.form is None:
                continue
            trained[module.component] += 1
            if changes_nothing(module.form, tensors):
                untrained.setdefault(module.component, []).append(module.key)
    report.add_named("not-finite", "error", not_finite, "Tensors with infinite or undefined values (NaN)")
    for component, keys in untrained.items():
        name = COMPONENT_NAMES[component]
        if len(keys) == trained[component]:
            report.add(
                "untrained",
                "warning",
                f"The {name} part changes nothing: all {len(keys)} modules leave the weights as they are. It was not "
                "trained, or its learning rate was too small for the precision of the file.",
            )
        else:
            report.add_named(
                "untrained", "note", keys, f"{len(keys)} of {trained[component]} modules of the {name} change nothing"
            )


def changes_nothing(form: ModuleForm, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a module leaves its weight as it is, which every module does when training begins.

    tensors: by role. DoRA counts by what its magnitudes scale: they alone cannot be told without the base weight.
    """
    zero = {role for role, tensor in tensors.items() if not bool(tensor.any())}
    match form.name:
        case "lora" | "loha" | "lokr":  # one factor of nothing is enough
            return bool(zero - {ALPHA, DORA_SCALE})
        case "glora":  # a sum of two products
            return not zero.isdisjoint({"a1.weight", "a2.weight"}) and not zero.isdisjoint(
                {"b1.weight", "b2.weight", "bm.weight"}
            )
        case "diag-oft" | "boft":
            blocks, rescale = tensors["oft_blocks"], tensors.get("rescale")
            turns = not torch.equal(blocks, blocks.transpose(-1, -2))
            return not turns and (rescale is None or bool((rescale == 1).all()))
        case _:
            return zero >= tensors.keys() - {ALPHA, "on_input"}
