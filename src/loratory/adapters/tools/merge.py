"""Adapters added to the weights of a base model on disk, which needs no adapter to be loaded any more."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from loratory.adapters.files import DTYPES, SavePrecision
from loratory.adapters.tools.checkpoints import Checkpoint, Layer, Part
from loratory.adapters.tools.recipe import Recipe, recipe_metadata, recipe_of
from loratory.adapters.tools.results import remove_leftovers
from loratory.adapters.tools.sources import AdapterSource, Ingredient, Source, refuse_strengths, zeros_like_layer
from loratory.adapters.tools.stream import (
    HASHES,
    STORED_DTYPES,
    Planned,
    Progress,
    TensorFile,
    all_finite,
    no_progress,
    planned,
    refusals,
    rounded,
    tensor_bytes,
    write_tensors,
)
from loratory.atomic import fsync_directory, temporary_beside
from loratory.errors import LoratoryError


@dataclass(frozen=True)
class MergedModel:
    """What was written. layers: how many weights and norms were changed; size_bytes: of all tensors."""

    out: Path
    layers: int
    size_bytes: int


class _Change(NamedTuple):
    """What is added to one part of a stored tensor: the weight of a layer, or its bias."""

    layer: Layer
    part: Part
    sources: list[Source]


_Changes = dict[tuple[Path, str], list[_Change]]
"""By file and name of the stored tensor."""


@torch.no_grad()
def merge_into_base(
    base: Path | str,
    ingredients: Sequence[Ingredient],
    out: Path,
    save_precision: SavePrecision | None = None,
    progress: Progress = no_progress,
) -> MergedModel:
    """Writes the base model with strength * weight change of every adapter added, in the layout it has.

    A checkpoint is written to the file `out`, a diffusers folder to the folder `out`; either whole or not at all, and
    over what is there. Every change is computed from the weights of the base model as it was, so the order of the
    adapters does not matter; a weight and all its changes are added up in float32 and rounded once. save_precision: of
    every tensor; None keeps each as it is stored. Memory: the largest layer a few times, in float32. Raises
    LoratoryError, before anything is written, for adapters of another family or size than the base model or with
    modules that it has not, and (exit code 1) when the disk refuses; nothing is left behind then.
    """
    refuse_strengths(ingredients)
    with ExitStack() as stack:
        model = stack.enter_context(Checkpoint(base))
        sources = [(item, stack.enter_context(AdapterSource(item.path))) for item in ingredients]
        changes = _plan(model, sources)
        recipe = recipe_of(sources)
        merging = _Merging(model, changes, DTYPES[save_precision] if save_precision else None, recipe, progress)
        if model.info.layout == "single_file":
            remove_leftovers(out)
            merging.write_file(model.info.path, out, shown=out)
        else:
            with refusals(out):
                _write_folder(model, merging, out)
    layers = {change.layer for found in changes.values() for change in found}
    return MergedModel(out, len(layers), merging.total_bytes)


def _plan(model: Checkpoint, sources: Sequence[tuple[Ingredient, AdapterSource]]) -> _Changes:
    known = model.by_key()
    by_layer: dict[Layer, list[Source]] = {}
    for ingredient, adapter in sources:
        adapter.refuse_other_family(model.family)
        used = [Source(adapter, key, ingredient.strength_of(key)) for key in adapter.roles]
        used = [source for source in used if source.strength]
        strangers = [source.key for source in used if source.key not in known]
        if strangers:
            more = f" and {len(strangers) - 1} more" if len(strangers) > 1 else ""
            raise LoratoryError(
                f"{adapter.path} has a module that the base model has no layer for: {strangers[0]}{more}.",
                hint="An adapter works with models of its own family alone.",
            )
        for source in used:
            layer = known[source.key]
            adapter.refuse_misfit(source.key, layer.weight.shape)
            by_layer.setdefault(layer, []).append(source)
    changes: _Changes = {}
    for layer, found in by_layer.items():
        _add(changes, layer, layer.weight, found)
        on_bias = [source for source in found if source.adapter.changes_bias(source.key)]
        if on_bias and layer.bias is None:
            raise LoratoryError(
                f"{on_bias[0].adapter.path} changes the bias of {on_bias[0].key}, which has none in the base model."
            )
        if on_bias and layer.bias is not None:
            _add(changes, layer, layer.bias, on_bias)
    return changes


def _add(changes: _Changes, layer: Layer, part: Part, sources: list[Source]) -> None:
    changes.setdefault((part.file, part.name), []).append(_Change(layer, part, sources))


class _Merging:
    """The files of one merge, written one after the other; total_bytes counts the tensors of all of them."""

    def __init__(
        self,
        model: Checkpoint,
        changes: _Changes,
        dtype: torch.dtype | None,
        recipe: Recipe,
        progress: Progress,
    ) -> None:
        self._model = model
        self._changes = changes
        self._dtype = dtype
        self._recipe = recipe
        self._progress = progress
        self._plans = {path: [self._planned(file, name) for name in file.tensors] for path, file in model.files.items()}
        self._sizes = {path: sum(tensor.size_bytes for tensor in plan) for path, plan in self._plans.items()}
        self.total_bytes = sum(self._sizes.values())
        self._written_bytes = 0

    def _planned(self, file: TensorFile, name: str) -> Planned:
        stored = file.tensors[name]
        if self._dtype is None or not self._converts(stored.dtype):
            return Planned(name, stored.dtype, stored.shape, stored.end - stored.start)
        return planned(name, self._dtype, stored.shape)

    def _converts(self, stored: str) -> bool:
        # Positions and the like are whole numbers, whatever the precision of the weights.
        return stored in STORED_DTYPES and STORED_DTYPES[stored].is_floating_point

    def write_file(self, source: Path, out: Path, *, shown: Path) -> None:
        """Writes `source`, one of the files of the model, to `out` with its changes. shown: what messages name."""
        file = self._model.files[source]
        formats = {tensor.name: tensor.dtype for tensor in self._plans[source]}

        def content(name: str) -> Iterator[bytes | memoryview]:
            changes = self._changes.get((source, name), [])
            if changes:
                yield self._merged(file, name, changes, STORED_DTYPES[formats[name]])
            elif formats[name] == file.tensors[name].dtype:
                yield from file.chunks(name)
            else:
                yield from file.converted(name, STORED_DTYPES[formats[name]])

        before = self._written_bytes
        metadata = dict(file.header.metadata)
        write_tensors(
            out,
            self._plans[source],
            metadata | recipe_metadata(self._recipe, self._model.info.path.name),
            content,
            lambda done, _: self._progress(before + done, self.total_bytes),
            hashes=[name for name in HASHES if name in metadata],
            shown=shown,
        )
        self._written_bytes += self._sizes[source]

    def size_of(self, source: Path) -> int:
        return self._sizes[source]

    def _merged(self, file: TensorFile, name: str, changes: Sequence[_Change], dtype: torch.dtype) -> memoryview:
        total = file.read(name).float()
        if not self._converts(file.tensors[name].dtype):
            raise LoratoryError(f"{file.path}: {name} is stored as {file.tensors[name].dtype}; nothing adds to that.")
        for layer, part, sources in changes:
            is_bias = part == layer.bias
            piece = part.of(total)
            # What is added to a bias depends on the weight's shape alone.
            weight = zeros_like_layer(layer.weight.shape) if is_bias else piece
            # Those that look at the weight come first, and are added when all of them have seen it as it was.
            needy = [source for source in sources if source.adapter.needs_base(source.key)]
            added: Tensor | None = None
            for adapter, key, strength in needy:
                value = adapter.delta(key, weight).weight.mul_(strength)
                added = value if added is None else added.add_(value)
            if added is not None:
                piece.add_(added)
            del added  # of the size of the layer, as what follows
            for adapter, key, strength in (source for source in sources if source not in needy):
                change = adapter.delta(key, weight)
                value = change.bias if is_bias else change.weight
                if value is not None:
                    piece.add_(value.reshape(piece.shape), alpha=strength)
        if not all_finite(total) and not all_finite(file.read(name)):
            raise LoratoryError(f"{file.path} holds numbers that are not finite in {name}: it is damaged.")
        return tensor_bytes(rounded(total, dtype, f"{name} with the adapters in it"))


def _write_folder(model: Checkpoint, merging: _Merging, shown: Path) -> None:
    out = shown.resolve()  # a link stays, and what it leads to is replaced
    _bring_back(out)
    remove_leftovers(out)
    staging = temporary_beside(out)
    staging.mkdir()
    try:
        folder = model.info.path
        for path in _other_files(folder, set(model.files)):
            to = staging / path.relative_to(folder)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, to)
        for path in model.files:
            to = staging / path.relative_to(folder)
            to.parent.mkdir(parents=True, exist_ok=True)
            merging.write_file(path, to, shown=shown)
        _correct_indexes(model, merging, staging)
        fsync_directory(staging)
        _put_in_place(staging, out)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


_WEIGHTS = (".safetensors", ".ckpt", ".bin", ".pt", ".pth", ".msgpack", ".onnx", ".onnx_data", ".pb", ".h5")


def _other_files(folder: Path, changed: set[Path]) -> Iterator[Path]:
    """What belongs to the model beside the files that are written anew.

    Variants of the changed components (fp16, pickles, other programs' formats) would be of the unchanged model, and
    checkpoints beside the subfolders are models of their own.
    """
    rewritten = {path.parent for path in changed} | {folder}
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder)
        if path.is_dir() or path in changed or any(part.startswith(".") for part in inner.parts):
            continue
        if path.parent in rewritten and path.suffix.lower() in _WEIGHTS:
            continue
        if path.name.endswith(".index.json") and path.parent in rewritten and not _is_of(path, changed):
            continue
        yield path


def _is_of(index: Path, changed: set[Path]) -> bool:
    listing: dict[str, Any] = json.loads(index.read_text(encoding="utf-8"))
    return all(index.parent / name in changed for name in listing.get("weight_map", {}).values())


def _correct_indexes(model: Checkpoint, merging: _Merging, staging: Path) -> None:
    """Writes into the indexes of shards how large the tensors are now."""
    for folder in {path.parent for path in model.files}:
        size_bytes = sum(merging.size_of(path) for path in model.files if path.parent == folder)
        for index in (staging / folder.relative_to(model.info.path)).glob("*.safetensors.index.json"):
            listing: dict[str, Any] = json.loads(index.read_text(encoding="utf-8"))
            listing["metadata"] = {**listing.get("metadata", {}), "total_size": size_bytes}
            index.write_text(json.dumps(listing, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _put_in_place(staging: Path, out: Path) -> None:
    """Renames a folder to where it belongs; what is there goes away only when the new one stands in its place."""
    if not out.exists():
        staging.rename(out)
        fsync_directory(out.parent)
        return
    old = _replaced(out)
    out.rename(old)
    try:
        staging.rename(out)
    except BaseException:
        _bring_back(out)
        raise
    fsync_directory(out.parent)
    shutil.rmtree(old)


def _replaced(out: Path) -> Path:
    """Where the folder `out` lies while another takes its place; no leftover that could be removed."""
    return out.with_name(f".{out.name}.replaced")


def _bring_back(out: Path) -> None:
    """Ends what a process that was killed had begun: the old folder returns, or goes where the new one stands."""
    old = _replaced(out)
    if old.is_dir() and out.exists():
        shutil.rmtree(old)
    elif old.is_dir():
        old.rename(out)


def refuse_folder(base: Path, out: Path, inputs: Sequence[Path], *, force: bool) -> None:
    """Raises LoratoryError unless `out` may become a folder: a new name, or with force an old model.

    Neither `base` nor a folder that holds one of the inputs is ever replaced.
    """
    if not out.parent.is_dir():
        raise LoratoryError(f"There is no folder {out.parent} to write {out.name} to.")
    if out.suffix.lower() == ".safetensors" or out.is_file():
        raise LoratoryError(
            f"{base} is a folder in diffusers layout, and so is the result; {out} is the name of a file.",
            hint="Name a folder with -o.",
        )
    if out.resolve().is_relative_to(base.resolve()):
        raise LoratoryError(f"{out} is inside the model that is read.", hint="Name a folder beside it.")
    if not out.exists():
        return
    if any(path.resolve().is_relative_to(out.resolve()) for path in (base, *inputs)):
        raise LoratoryError(f"{out} holds what is merged; it is not written over.", hint="Name another output.")
    if not force:
        raise LoratoryError(f"{out} is there already.", hint="Name another output, or replace it with --force.")
    if not (out / "model_index.json").is_file() and any(out.iterdir()):
        raise LoratoryError(f"{out} is no model folder, so it is not replaced.", hint="Name another output.")
