"""Prodigy on the device: the course of prodigyopt, and no wait for the device in a step."""

import io
import math
from contextlib import redirect_stdout
from typing import Any

import prodigyopt
import pytest
import torch
from torch.nn import Parameter
from torch.utils._python_dispatch import TorchDispatchMode

from loratory.training.prodigy import Prodigy

SHAPES = [(8, 32), (32, 8), (16, 8, 3, 3), (40,), (64, 16), (16, 64)]
GUIDE = {"decouple": True, "weight_decay": 0.1, "betas": (0.9, 0.99)}


def course(
    kind: type, arguments: dict[str, Any], dtype: torch.dtype, steps: int
) -> tuple[list[torch.Tensor], list[float]]:
    """The parameters and the d of each step, down a noisy bowl, after a warm-up of ten steps from a rate of 0."""
    generator = torch.Generator().manual_seed(0)
    starts = [torch.randn(s, generator=generator) / 10 if i % 2 == 0 else torch.zeros(s) for i, s in enumerate(SHAPES)]
    parameters = [Parameter(start.to(dtype)) for start in starts]
    targets = [torch.randn(shape, generator=generator) for shape in SHAPES]
    with redirect_stdout(io.StringIO()):
        optimizer = kind([{"params": parameters[:3]}, {"params": parameters[3:]}], **arguments)
    found: list[float] = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = arguments.get("lr", 1.0) * min(1.0, step / 10)
        for parameter, target in zip(parameters, targets, strict=True):
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.grad = (parameter.detach() - target.to(dtype)) / 10 + noise.to(dtype) / 50
        optimizer.step()
        found.append(float(optimizer.param_groups[0]["d"]))
    return [parameter.detach() for parameter in parameters], found


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        GUIDE,
        {"weight_decay": 0.01, "decouple": False},
        {"use_bias_correction": True, "safeguard_warmup": True, "d_coef": 0.8},
        {"growth_rate": 1.02, "betas": (0.9, 0.99)},
        {"betas": (0.0, 0.99)},
        {"slice_p": 5, "betas": (0.9, 0.99)},
        {"beta3": 0.9, "eps": 1e-6, "d0": 1e-5, "lr": 0.5, "betas": (0.95, 0.98)},
    ],
    ids=lambda arguments: "-".join(arguments) or "defaults",
)
def test_it_goes_the_way_of_prodigyopt(arguments: dict[str, Any]) -> None:
    # In double precision, where rounding does not hide a difference and 200 steps do not make it grow.
    expected, their_d = course(prodigyopt.Prodigy, arguments, torch.float64, 200)
    parameters, our_d = course(Prodigy, arguments, torch.float64, 200)
    assert our_d == pytest.approx(their_d, rel=1e-9)
    torch.testing.assert_close(parameters, expected, rtol=1e-6, atol=1e-8)
    assert our_d[-1] > 10 * our_d[0] and max(float(p.abs().max()) for p in parameters) > 0.2

    expected, their_d = course(prodigyopt.Prodigy, arguments, torch.float32, 100)
    parameters, our_d = course(Prodigy, arguments, torch.float32, 100)
    assert our_d == pytest.approx(their_d, rel=1e-5)
    # Single values whose first gradient is nearly zero go apart, as they do for any two orders of summation.
    apart = torch.cat([(ours - theirs).abs().flatten() for ours, theirs in zip(parameters, expected, strict=True)])
    assert apart.mean() < 1e-5 and apart.max() < 1e-2


class _Waits(TorchDispatchMode):
    """Counts the operations that hand a number to Python, each of which waits for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("arguments", [GUIDE, {"use_bias_correction": True, "betas": (0.0, 0.9)}])
def test_a_step_does_not_wait_for_the_device(arguments: dict[str, Any]) -> None:
    def waits(kind: type) -> int:
        parameters = [Parameter(torch.ones(4, 3)), Parameter(torch.zeros(3))]
        with redirect_stdout(io.StringIO()):
            optimizer = kind(parameters, **arguments)
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        with _Waits() as counter:
            optimizer.step()
        return counter.count

    assert waits(Prodigy) == 0
    assert waits(prodigyopt.Prodigy) >= 4  # two for each tensor: the counter works


@pytest.mark.parametrize("kind", [Prodigy, prodigyopt.Prodigy])
def test_nothing_happens_while_every_gradient_is_zero(kind: type) -> None:
    parameter = Parameter(torch.ones(3))
    optimizer = kind([parameter], **{**GUIDE, "use_bias_correction": True})
    for _ in range(3):
        parameter.grad = torch.zeros(3)
        optimizer.step()
    (group,) = optimizer.param_groups
    assert parameter.tolist() == [1.0, 1.0, 1.0]
    assert (float(group["d"]), float(group["d_numerator"]), float(group["k"])) == (1e-6, 0.0, 0.0)


def test_parameters_without_a_gradient_stay() -> None:
    parameters = [Parameter(torch.ones(3)), Parameter(torch.ones(3))]
    optimizer = Prodigy(parameters)
    optimizer.step()
    parameters[0].grad = torch.ones(3)
    optimizer.step()
    assert parameters[0].tolist() != [1.0] * 3 and parameters[1].tolist() == [1.0] * 3


def test_parameters_without_a_gradient_count_in_the_step_size() -> None:
    # DyLoRA trains one block of many in each step: d must not be as many times too large.
    def found(absent: torch.Tensor | None) -> float:
        parameters = [Parameter(torch.zeros(4)) for _ in range(8)]
        optimizer = Prodigy(parameters)
        for step in range(4):
            for number, parameter in enumerate(parameters):
                parameter.grad = torch.ones(4) if step < 3 or number == 0 else absent
            optimizer.step()
        return float(optimizer.param_groups[0]["d_max"])

    assert found(None) == found(torch.zeros(4))


def test_bfloat16_parameters_have_float32_states() -> None:
    parameter = Parameter(torch.full((4,), 0.5, dtype=torch.bfloat16))
    optimizer = Prodigy([parameter], d0=1e-2)
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert {value.dtype for value in optimizer.state[parameter].values()} == {torch.float32}
    assert parameter.dtype == torch.bfloat16 and parameter[0] < 0.5


@pytest.mark.parametrize(
    "arguments",
    [{"d0": 0.0}, {"lr": 0.0}, {"eps": 0.0}, {"betas": (1.0, 0.9)}, {"slice_p": 0}, {"growth_rate": 0.5}],
    ids=lambda arguments: next(iter(arguments)),
)
def test_values_out_of_range_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        Prodigy([Parameter(torch.ones(1))], **arguments)


def test_different_rates_are_refused() -> None:
    parameters = [Parameter(torch.ones(1)), Parameter(torch.ones(1))]
    optimizer = Prodigy([{"params": parameters[:1], "lr": 1.0}, {"params": parameters[1:], "lr": 0.5}])
    with pytest.raises(ValueError, match="one learning rate"):
        optimizer.step()


def test_the_default_growth_is_unlimited() -> None:
    assert Prodigy([Parameter(torch.ones(1))]).defaults["growth_rate"] == math.inf
