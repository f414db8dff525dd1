"""Adapter files as the tools read them: module by module, of any kind, each only while it is worked on."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, prod
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from loratory.adapters.deltas import Delta, delta, needs_base
from loratory.adapters.keys import Family, key_component
from loratory.adapters.layout import FAMILY_NAMES, FamilyGuess, guess_family
from loratory.adapters.roles import ALPHA, NetworkKind, parts_of, refuse_other_files, roles_by_module
from loratory.adapters.tools.stream import Closing, TensorFile, all_finite
from loratory.errors import LoratoryError

_BIAS_ROLES = ("diff_b", "b_norm")


@dataclass(frozen=True)
class Ingredient:
    """One adapter of a merge: how strongly it changes the UNet and the text encoders."""

    path: Path
    unet: float = 1.0
    text_encoder: float = 1.0

    def strength_of(self, key: str) -> float:
        """For the module under that key."""
        return self.unet if key_component(key) == "unet" else self.text_encoder


class AdapterSource(Closing):
    """An adapter file open for reading, module by module; a context manager.

    roles: of each module, by key. setting: what messages start with, such as the name of the setting that names the
    file ("" for none). Raises LoratoryError when the file is missing or no adapter, or has a module of no known kind or
    with parts missing.
    """

    def __init__(self, path: Path, setting: str = "") -> None:
        self._before = f"{setting}: " if setting else ""
        if not path.is_file():
            raise LoratoryError(f"{self._before}there is no file {path}." if setting else f"There is no file {path}.")
        self._file = TensorFile(path)
        self.path = path
        try:
            refuse_other_files(path, self._file.tensors)
            self.roles = roles_by_module(self._file.tensors)
            self.kinds: dict[str, NetworkKind] = {key: self._kind(key, roles) for key, roles in self.roles.items()}
        except BaseException:
            self._file.close()
            raise
        self._fitting: set[tuple[object, ...]] = set()

    @property
    def metadata(self) -> Mapping[str, str]:
        return self._file.header.metadata

    @property
    def family(self) -> FamilyGuess:
        return guess_family(self._file.header.tensors, self.metadata)

    def _kind(self, key: str, roles: set[str]) -> NetworkKind:
        kind, missing, unknown = parts_of(roles)
        if kind is None or key_component(key) is None:
            raise LoratoryError(
                f"{self._before}{self.path} holds tensors of no known kind ({key}).",
                hint="`loratory lora inspect` shows what is in a file.",
            )
        if missing or unknown:
            which = f"no {missing[0]}" if missing else f"the unknown tensor {unknown[0]}"
            raise LoratoryError(
                f"{self._before}{self.path} has {which} in {key}.",
                hint="`loratory lora verify` shows all that is wrong with a file.",
            )
        if ALPHA in roles and prod(self.shape(key, ALPHA)) != 1:
            raise LoratoryError(f"{self._before}{self.path}: {key}.{ALPHA} is not one number.")
        return kind

    def shape(self, key: str, role: str) -> tuple[int, ...]:
        return self._file.tensors[f"{key}.{role}"].shape

    def shapes(self, key: str) -> dict[str, tuple[int, ...]]:
        """Of the tensors of a module, by role."""
        return {role: self.shape(key, role) for role in sorted(self.roles[key])}

    def alpha(self, key: str) -> float | None:
        """Of a module; None where the file has none."""
        return float(self._file.read(f"{key}.{ALPHA}")) if ALPHA in self.roles[key] else None

    def dtype(self, key: str, role: str) -> str:
        """The safetensors name of the format a tensor is stored in."""
        return self._file.tensors[f"{key}.{role}"].dtype

    def needs_base(self, key: str) -> bool:
        """Whether what a module adds depends on the values of the base weight."""
        return needs_base(self.roles[key])

    def changes_bias(self, key: str) -> bool:
        return not self.roles[key].isdisjoint(_BIAS_ROLES)

    def tensors(self, key: str) -> dict[str, Tensor]:
        """The tensors of a module by role, in the formats they are stored in."""
        return {role: self._file.read(f"{key}.{role}") for role in sorted(self.roles[key])}

    def finite_tensors(self, key: str) -> dict[str, Tensor]:
        """`tensors`, or LoratoryError where a number in them is not finite."""
        tensors = self.tensors(key)
        for role, tensor in tensors.items():
            if not all_finite(tensor):
                raise LoratoryError(
                    f"{self._before}{self.path} holds numbers that are not finite in {key}.{role}: it is damaged.",
                    hint="`loratory lora verify` shows all that is wrong with a file.",
                )
        return tensors

    def delta(self, key: str, weight: Tensor) -> Delta:
        """What a module adds to its layer, on the device of `weight`, the layer's float32 weight of the base model.

        Raises LoratoryError where the tensors do not fit that layer, or are not finite.
        """
        tensors = {role: tensor.to(weight.device) for role, tensor in self.finite_tensors(key).items()}
        found = self._change(key, tensors, weight)
        if not all_finite(found.weight):
            raise LoratoryError(f"{self._before}{self.path}: the change of {key} is not finite.")
        return found

    def refuse_misfit(self, key: str, shape: Sequence[int]) -> None:
        """Raises LoratoryError unless a module fits a layer whose weight has that shape; nothing is computed."""
        if self.kinds[key].name == "ia3":  # which of its two forms a module has is told by a value
            self._change(key, self.tensors(key), zeros_like_layer(shape))
            return
        shapes = self.shapes(key)
        same = (*shapes.items(), tuple(shape))
        if same in self._fitting:  # a model has hundreds of layers, of some thirty shapes
            return
        with FakeTensorMode():  # tensors with shapes and no values
            # alpha, whose value is asked for, may always be left out.
            tensors = {role: torch.empty(own) for role, own in shapes.items() if role != ALPHA}
            self._change(key, tensors, torch.empty(tuple(shape)))
        self._fitting.add(same)

    def _change(self, key: str, tensors: Mapping[str, Tensor], weight: Tensor) -> Delta:
        try:
            return delta(tensors, weight)
        except LoratoryError as error:
            raise LoratoryError(
                f"{self._before}{self.path} was trained on a base model of other sizes: {key} does not fit a layer of "
                f"{list(weight.shape)} ({error.message.rstrip('.')}).",
                hint="An adapter works with models of its own family and size alone.",
            ) from error

    def refuse_other_family(self, family: Family) -> None:
        """Raises LoratoryError for an adapter of another family than the base model, where names or shapes tell."""
        guess = self.family
        if guess.family not in (None, family):
            raise LoratoryError(
                f"{self._before}{self.path} is for {FAMILY_NAMES[guess.family]} models ({guess.reason}); the base "
                f"model is {FAMILY_NAMES[family]}.",
                hint="An adapter works with models of its own family alone.",
            )

    def sha256(self) -> str:
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def close(self) -> None:
        self._file.close()


class Source(NamedTuple):
    """One module of one adapter, and how strongly it counts."""

    adapter: AdapterSource
    key: str
    strength: float


def refuse_strengths(ingredients: Sequence[Ingredient]) -> None:
    """Raises LoratoryError for no adapter at all, and for a strength that is no number."""
    if not ingredients:
        raise LoratoryError("There is no adapter to merge.")
    for ingredient in ingredients:
        if not (isfinite(ingredient.unet) and isfinite(ingredient.text_encoder)):
            raise LoratoryError(f"{ingredient.path}: a weight must be a finite number.")


def zeros_like_layer(shape: Sequence[int]) -> Tensor:
    """A float32 weight of that shape for changes that do not depend on the base model's values; takes no memory."""
    return torch.zeros((), dtype=torch.float32).expand(tuple(shape))
