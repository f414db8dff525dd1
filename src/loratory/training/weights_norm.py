"""How far an adapter has come: the norm of what each part of it adds to the model's weights.

Those of LoRA and DoRA are never formed. With c = scale * up @ down, the squared norm of c is the sum over
(up^T up) * (down down^T), r x r numbers; DoRA adds g * (w + c) - w with g = magnitude / ||w + c|| per output channel,
whose squared norm is (g-1)^2 ||w||^2 + 2 g (g-1) <w, c> + g^2 ||c||^2, where <w, c> needs w @ down^T alone. What the
other types add is formed, one layer at a time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from loratory.adapters.dora import output_norms
from loratory.adapters.layers import AdapterLayer
from loratory.adapters.lora import PeftLayer
from loratory.adapters.lycoris import FormLayer
from loratory.adapters.max_norm import change_norms
from loratory.adapters.precision import widest
from loratory.dataset.epochs import RunLength
from loratory.training.engine import Engine

_EVERY_STEPS = 50
# Bytes of float64 copies that lie on the device at once: this must never be what a run has no memory for.
_STACK_BYTES = 32 << 20


def weights_due(length: RunLength, step: int) -> bool:
    """Whether the norms are measured after `step` steps: the first, every 50th, the last of each epoch."""
    return step == 1 or step % _EVERY_STEPS == 0 or length.ends_epoch(step) or step == length.total_steps


@dataclass
class WeightsNorm:
    """Measures the trained parts of an engine. names: of the parts, in the order of `measure`."""

    engine: Engine
    _base_norms: dict[str, Tensor] = field(default_factory=dict[str, Tensor], init=False)

    def __post_init__(self) -> None:
        parts = self.engine.plan.trained
        self.names = [part.name for part in parts]
        layers = self.engine.adapter.layers
        self._parts = [[layer for layer in layers if layer.target.component in part.components] for part in parts]

    @torch.no_grad()
    def measure(self) -> Tensor:
        """The Frobenius norm of each part's whole change, (parts,), on the device; waits for nothing."""
        with torch.autocast(self.engine.device.type, enabled=False):
            squares = [
                torch.cat([self._plain(layers), *self._dora(layers), *_formed(layers)]).to(self.engine.device).sum()
                for layers in self._parts
            ]
        return torch.stack(squares).clamp(min=0).sqrt()

    def _plain(self, layers: Sequence[AdapterLayer]) -> Tensor:
        """Squared norms of the layers without magnitudes, alike ones together."""
        alike: dict[tuple[torch.Size, torch.Size], list[PeftLayer]] = {}
        for layer in layers:
            if isinstance(layer, PeftLayer) and layer.magnitude is None:
                alike.setdefault((layer.down.shape, layer.up.shape), []).append(layer)
        squares = [torch.zeros(1, dtype=widest(self.engine.device), device=self.engine.device)]
        for group in alike.values():
            at_once = max(1, _STACK_BYTES // (8 * (group[0].down.numel() + group[0].up.numel())))
            for start in range(0, len(group), at_once):
                some = group[start : start + at_once]
                scales = [layer.target.scale for layer in some]
                squares.append(change_norms([layer.down for layer in some], [layer.up for layer in some], scales) ** 2)
        return torch.cat(squares)

    def _dora(self, layers: Sequence[AdapterLayer]) -> list[Tensor]:
        return [
            self._dora_square(layer, layer.magnitude).sum()[None]
            for layer in layers
            if isinstance(layer, PeftLayer) and layer.magnitude is not None
        ]

    def _dora_square(self, layer: PeftLayer, magnitude: Tensor) -> Tensor:
        """The squared norm of what each output channel gets, (out,)."""
        base = layer.base.weight
        dtype = widest(base.device)
        key = layer.target.key
        if key not in self._base_norms:
            self._base_norms[key] = output_norms(base).flatten().to(dtype)
        weight = self._base_norms[key]
        down = layer.down.flatten(1)
        up = layer.up.flatten(1).to(dtype) * layer.target.scale
        # Only what w and c have in common needs the base weight, and float32 is enough for it: see the test.
        common = ((base.flatten(1).float() @ down.float().T).to(dtype) * up).sum(dim=1)
        down = down.to(dtype)
        added = ((up @ (down @ down.T)) * up).sum(dim=1).clamp(min=0)
        changed = (weight**2 + 2 * common + added).clamp(min=0).sqrt()
        gain = magnitude.flatten().to(dtype) / changed
        return (gain - 1) ** 2 * weight**2 + 2 * gain * (gain - 1) * common + gain**2 * added


def _formed(layers: Sequence[AdapterLayer]) -> Iterator[Tensor]:
    for layer in layers:
        if isinstance(layer, FormLayer):
            change = layer.module.form.meaning(layer.tensors())
            squares = [part.square().sum(dtype=widest(part.device)) for part in change if part is not None]
            yield torch.stack(squares).sum()[None]
