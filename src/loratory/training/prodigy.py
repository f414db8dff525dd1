"""Prodigy (Mishchenko and Defazio 2023, arXiv 2306.06101) without waiting for the device.

The arithmetic is that of `prodigyopt` 1.1.2. That one reads two numbers of every tensor in every step, thousands of
waits for a LoRA of SDXL; here the step size d and what it is made of stay tensors on the device, and every operation
runs over all parameters at once.
"""

# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false
# torch keeps the names of its multi-tensor operations private, and builds its own optimizers of them.

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from loratory.adapters.precision import widest

# Numbers of the whole optimizer that live on the device; every group refers to the same ones.
_SCALARS = ("d", "d_max", "d_numerator", "k")
_HALF = (torch.float16, torch.bfloat16)


class Prodigy(Optimizer):
    """Adam that finds its own step size d, which grows from d0.

    Differs from prodigyopt for parameters without a gradient in a step: see `_resting`.

    lr: factor on d, best left at 1; all groups share one (or 0 for all during a warm-up step). beta3: decay of the
    sums behind d, sqrt(beta2) if None. decouple: weight decay as in AdamW. safeguard_warmup: leaves lr out of the
    denominator of d. d_coef: factor on the estimate of d. growth_rate: most that d may grow in a step. slice_p: works d
    out from every p-th value only, which saves memory and is an approximation above 1. State: up to 4 float32 tensors
    per parameter, also for parameters of 16 bits. Raises ValueError for values out of range and for different rates.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        beta3: float | None = None,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decouple: bool = True,
        use_bias_correction: bool = False,
        safeguard_warmup: bool = False,
        d0: float = 1e-6,
        d_coef: float = 1.0,
        growth_rate: float = math.inf,
        slice_p: int = 1,
    ) -> None:
        beta1, beta2 = betas
        if not (0.0 <= beta1 < 1.0 and 0.0 <= beta2 < 1.0):
            raise ValueError(f"betas are from 0 to below 1, not {betas}")
        for name, value in {"lr": lr, "eps": eps, "d0": d0, "slice_p": slice_p}.items():
            if not value > 0:
                raise ValueError(f"{name} is above 0, not {value}")
        if growth_rate < 1.0:
            raise ValueError(f"growth_rate is at least 1, not {growth_rate}")
        defaults: dict[str, Any] = {
            "lr": lr,
            "betas": (beta1, beta2),
            "beta3": math.sqrt(beta2) if beta3 is None else beta3,
            "eps": eps,
            "weight_decay": weight_decay,
            "decouple": decouple,
            "use_bias_correction": use_bias_correction,
            "safeguard_warmup": safeguard_warmup,
            "d0": d0,
            "d_coef": d_coef,
            "growth_rate": growth_rate,
            "slice_p": slice_p,
        }
        super().__init__(params, defaults)
        self._keep_scalars({"d": d0, "d_max": d0, "d_numerator": 0.0, "k": 0.0})

    def _keep_scalars(self, values: dict[str, float] | dict[str, Tensor]) -> None:
        device = self.param_groups[0]["params"][0].device
        dtype = widest(device)  # as Python's own numbers, which prodigyopt uses
        for name, value in values.items():
            scalar = torch.as_tensor(value, dtype=dtype, device=device)
            for group in self.param_groups:
                group[name] = scalar

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._keep_scalars({name: self.param_groups[0][name] for name in _SCALARS})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride] - overloads
        """One update of all parameters that have a gradient. Waits for the device in the first step only."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        group = self.param_groups[0]
        lr = float(group["lr"])
        if any(other["lr"] != lr for other in self.param_groups):
            raise ValueError("Prodigy has one learning rate for all parameter groups")
        parameters: list[Tensor] = [p for g in self.param_groups for p in g["params"] if p.grad is not None]
        if not parameters:
            return loss
        self._start([p for p in parameters if not self.state[p]], group["slice_p"])
        if lr == 0.0:
            return loss

        beta1, beta2 = group["betas"]
        d: Tensor = group["d"]
        rate = d * lr
        if group["use_bias_correction"]:
            rate = rate * (1 - beta2 ** (group["k"] + 1)).sqrt() / (1 - beta1 ** (group["k"] + 1))
        chunks = _chunks(parameters)
        sums = [self._gather(chunk, rate) for chunk in chunks]
        progress = torch.stack([moved for moved, _ in sums]).sum()
        denominator = torch.stack([norm for _, norm in sums]).sum() + self._resting()

        # As long as every gradient has been zero there is nothing to work d out from, and the step is left out.
        active = denominator > 0
        numerator = group["beta3"] * group["d_numerator"] + d / group["d0"] * rate * progress
        d_hat = group["d_coef"] * numerator / denominator
        d_max = torch.maximum(group["d_max"], d_hat)
        grown = torch.where(d == group["d0"], torch.maximum(d, d_hat), d) * group["growth_rate"]
        new = {
            "d": torch.where(active, torch.minimum(d_max, grown), d),
            "d_max": torch.where(active, d_max, group["d_max"]),
            "d_numerator": torch.where(active, numerator, group["d_numerator"]),
            "k": group["k"] + active,
        }
        # New tensors each time, so that one handed out to be read later keeps the value of its step.
        for other in self.param_groups:
            other.update(new)
        for chunk in chunks:
            self._move(chunk, rate * active)
        return loss

    def _gather(self, parameters: list[Tensor], rate: Tensor) -> tuple[Tensor, Tensor]:
        """Takes the gradients into the averages; returns their part in the numerator of d, and in its denominator."""
        group = self.param_groups[0]
        (beta1, beta2), slice_p, d = group["betas"], group["slice_p"], group["d"]
        weights = [_wide(p) for p in parameters]
        grads = _gradients(parameters, group)
        states = [self.state[p] for p in parameters]
        s: list[Tensor] = [state["s"] for state in states]
        exp_avg_sq: list[Tensor] = [state["exp_avg_sq"] for state in states]
        dtype = weights[0].dtype

        progress = _dot(_every(grads, slice_p), [state["p0"] for state in states], _every(weights, slice_p), d.dtype)
        scaled = list(torch._foreach_mul(grads, d.to(dtype)))
        if beta1:
            exp_avg: list[Tensor] = [state["exp_avg"] for state in states]
            torch._foreach_mul_(exp_avg, beta1)
            torch._foreach_add_(exp_avg, scaled, alpha=1 - beta1)
        torch._foreach_mul_(exp_avg_sq, beta2)
        torch._foreach_addcmul_(exp_avg_sq, scaled, scaled, value=1 - beta2)
        scaled = _every(scaled, slice_p)
        torch._foreach_mul_(scaled, ((d if group["safeguard_warmup"] else rate) / group["d0"]).to(dtype))
        torch._foreach_mul_(s, group["beta3"])
        torch._foreach_add_(s, scaled)
        return progress, torch.stack(torch._foreach_norm(s, 1)).sum(dtype=d.dtype)

    def _resting(self) -> Tensor | float:
        """The part in the denominator of d of parameters without a gradient in this step, as if it were zero.

        The numerator remembers what they did to it. Without them d would be as many times too large as there are
        blocks of DyLoRA, of which every step trains one. prodigyopt leaves them out.
        """
        group = self.param_groups[0]
        resting: list[Tensor] = [
            self.state[p]["s"] for g in self.param_groups for p in g["params"] if p.grad is None and p in self.state
        ]
        if not resting:
            return 0.0
        torch._foreach_mul_(resting, group["beta3"])
        return torch.stack(torch._foreach_norm(resting, 1)).sum(dtype=group["d"].dtype)

    def _move(self, parameters: list[Tensor], rate: Tensor) -> None:
        """Changes the parameters, `rate` being d x the learning rate from before d grew."""
        group = self.param_groups[0]
        beta1, d, decay = group["betas"][0], group["d"], group["weight_decay"]
        weights = [_wide(p) for p in parameters]
        dtype = weights[0].dtype
        direction = [self.state[p]["exp_avg"] for p in parameters] if beta1 else _gradients(parameters, group)
        if decay and group["decouple"]:
            # Not a factor of 1 - decay x rate, which float32 rounds to 1.
            torch._foreach_add_(weights, torch._foreach_mul(weights, (-decay * rate).to(dtype)))
        update = torch._foreach_sqrt([self.state[p]["exp_avg_sq"] for p in parameters])
        # Without alpha torch takes the tensor for a number of Python's, and waits for it.
        torch._foreach_add_(update, (d * group["eps"]).to(dtype), alpha=1)
        update = torch._foreach_div(direction, update)
        torch._foreach_mul_(update, (-rate * (1 if beta1 else d)).to(dtype))
        torch._foreach_add_(weights, update)
        if any(p.dtype in _HALF for p in parameters):
            torch._foreach_copy_(parameters, weights)

    def _start(self, parameters: list[Tensor], slice_p: int) -> None:
        """Makes the state of parameters that are new."""
        if not parameters:
            return
        not_zero: list[bool] = torch.stack([p.any() for p in parameters]).tolist()
        for p, keep in zip(parameters, not_zero, strict=True):
            weight = _wide(p)
            (start,) = _every([weight], slice_p)
            state = self.state[p]
            state["s"] = torch.zeros_like(start)
            # The upper half of an adapter starts at zero, which need not be kept value by value.
            state["p0"] = start.clone() if keep else weight.new_zeros(())
            state["exp_avg_sq"] = torch.zeros_like(weight)
            if self.param_groups[0]["betas"][0]:
                state["exp_avg"] = torch.zeros_like(weight)


def _chunks(tensors: list[Tensor]) -> list[list[Tensor]]:
    """The tensors in runs, each short enough for its temporary copies.

    On the CPU they stay in its cache, a third of the time; elsewhere they take a few hundred megabytes at most.
    """
    limit = 2**17 if tensors[0].device.type == "cpu" else 2**24
    chunks: list[list[Tensor]] = []
    values = limit
    for tensor in tensors:
        if values + tensor.numel() > limit:
            chunks.append([])
            values = 0
        chunks[-1].append(tensor)
        values += tensor.numel()
    return chunks


def _gradients(parameters: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
    """The gradients in at least 32 bits, with weight decay as in Adam (not AdamW) where that is asked for."""
    grads = [_wide(p.grad) for p in parameters if p.grad is not None]
    if group["weight_decay"] and not group["decouple"]:
        return list(torch._foreach_add(grads, [_wide(p) for p in parameters], alpha=group["weight_decay"]))
    return grads


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in _HALF else tensor


def _every(tensors: list[Tensor], p: int) -> list[Tensor]:
    """Every p-th value of each tensor, or the tensors themselves."""
    return tensors if p == 1 else [tensor.flatten()[::p] for tensor in tensors]


def _dot(grads: list[Tensor], starts: list[Tensor], weights: list[Tensor], dtype: torch.dtype) -> Tensor:
    """Sum over all values of gradient x (start - weight); a start without dimensions is zero."""
    moved = [i for i, start in enumerate(starts) if start.dim()]
    fresh = [i for i, start in enumerate(starts) if not start.dim()]
    products: list[Tensor] = []
    if moved:
        products += torch._foreach_sub([starts[i] for i in moved], [weights[i] for i in moved])
    if fresh:
        products += torch._foreach_neg([weights[i] for i in fresh])
    torch._foreach_mul_(products, [grads[i] for i in (*moved, *fresh)])
    return torch.cat([product.flatten() for product in products]).sum(dtype=dtype)
