"""scale_weight_norms: no module's weight change may have a Frobenius norm above a limit."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from loratory.adapters.precision import widest

# Modules of one shape are stacked for one batched product; more at once would need hundreds of MB for SDXL.
_STACKED = 64


@dataclass(frozen=True)
class NormReport:
    """keys_scaled: modules that were above the limit. mean_norm, max_norm: over all modules, after scaling."""

    keys_scaled: int
    mean_norm: float
    max_norm: float


def report_of(norms: Sequence[float], limit: float) -> NormReport:
    """The report of modules that had these norms before they were scaled."""
    after = [min(norm, limit) for norm in norms]
    return NormReport(sum(norm > limit for norm in norms), sum(after) / len(after), max(after))


def change_norms(downs: Sequence[Tensor], ups: Sequence[Tensor], scales: Sequence[float]) -> Tensor:
    """||scale * up @ down|| (Frobenius) of modules of one shape, (N,), as wide as floats of the device are.

    downs: N x (r, ...). ups: N x (out, r) or (out, r, 1, 1). A 3x3 convolution composed with a 1x1 one has the norm of
    the product of the flattened matrices. Computed as sqrt(sum(up^T up * down down^T)), which needs r x r numbers per
    module instead of out x in; in float64 where there is, because that sum cancels, and TF32 would make it worse.
    """
    dtype = widest(downs[0].device)
    down = torch.stack([tensor.detach().flatten(1) for tensor in downs]).to(dtype)
    up = torch.stack([tensor.detach().flatten(1) for tensor in ups]).to(dtype)
    grams = (up.transpose(1, 2) @ up) * (down @ down.transpose(1, 2))
    return grams.sum(dim=(1, 2)).clamp_(min=0).sqrt() * torch.tensor(scales, dtype=dtype, device=down.device)


@torch.no_grad()
def apply_max_norm(modules: Sequence[tuple[Tensor, Tensor, float]], limit: float) -> NormReport:
    """Scales (down, up, scale) modules in place so that ||scale * up @ down|| is at most `limit` > 0.

    The ratio limit / norm is split evenly: both tensors are multiplied by its square root. Same function as sd-scripts'
    apply_max_norm_regularization. The norms are read back once, for all modules together.
    """
    groups: dict[tuple[torch.Size, torch.Size, torch.device], list[tuple[Tensor, Tensor, float]]] = {}
    for module in modules:
        groups.setdefault((module[0].shape, module[1].shape, module[0].device), []).append(module)
    chunks = [group[start : start + _STACKED] for group in groups.values() for start in range(0, len(group), _STACKED)]
    norms_by_chunk = [change_norms(*zip(*chunk, strict=True)) for chunk in chunks]
    norms: list[float] = torch.cat([norms.to(norms_by_chunk[0].device) for norms in norms_by_chunk]).tolist()
    too_large: list[Tensor] = []
    factors: list[float] = []
    for (down, up, _), norm in zip((module for chunk in chunks for module in chunk), norms, strict=True):
        if norm > limit:
            too_large += [down, up]
            factors += [(limit / norm) ** 0.5] * 2
    if too_large:
        # One launch for all of them; the optimizers of torch are built on it too, but it has no public name.
        torch._foreach_mul_(too_large, factors)  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage] - optimizers of PyTorch use it
    return report_of(norms, limit)
