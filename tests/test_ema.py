import io
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import Parameter

from loratory.errors import LoratoryError
from loratory.training.ema import MovingAverage, decay_after

floats = st.floats(-1e3, 1e3, width=32)


def named(*values: list[float], dtype: torch.dtype = torch.float32) -> dict[str, Parameter]:
    return {f"p{index}": Parameter(torch.tensor(value, dtype=dtype)) for index, value in enumerate(values)}


def put(parameter: Parameter, value: Any) -> None:
    with torch.no_grad():
        parameter.copy_(torch.as_tensor(value))


def test_warm_up_is_short_at_first_and_ends_at_the_decay():
    assert [decay_after(n, 0.999) for n in (0, 1, 9)] == [0.1, 2 / 11, 10 / 19]
    assert decay_after(8980, 0.999) == 8981 / 8990 < 0.999
    assert decay_after(9000, 0.999) == decay_after(10**6, 0.999) == 0.999
    assert decay_after(0, 0.05) == 0.05


@settings(deadline=None, max_examples=50)
@given(decay=st.floats(0, 1, exclude_max=True), values=st.lists(st.tuples(floats, floats), min_size=2, max_size=30))
def test_it_is_the_recurrence_and_stays_among_the_values(decay: float, values: list[tuple[float, float]]):
    parameters = named([values[0][0]], [values[0][1]])
    average = MovingAverage(parameters, decay)
    expected = [float(p.detach()) for p in parameters.values()]
    for n, pair in enumerate(values[1:]):
        for index, (parameter, value) in enumerate(zip(parameters.values(), pair, strict=True)):
            put(parameter, [value])
            kept = min(decay, (1 + n) / (10 + n))
            expected[index] = kept * expected[index] + (1 - kept) * float(parameter.detach())
        average.update()
    assert average.updates == len(values) - 1
    for index, mean in enumerate(average.means.values()):
        column = [pair[index] for pair in values]
        slack = 1e-5 * max(map(abs, column)) + 1e-30
        assert float(mean) == pytest.approx(expected[index], rel=1e-5, abs=slack)
        assert min(column) - slack <= float(mean) <= max(column) + slack


def test_half_precision_parameters_have_a_float32_mean():
    parameters = named([1.0], dtype=torch.bfloat16)
    average = MovingAverage(parameters, 0.999)
    average.load_state_dict({"updates": 10**6, "means": {"p0": torch.tensor([1.0])}})
    put(parameters["p0"], [2.0])
    for _ in range(3):
        average.update()
    assert float(average.means["p0"]) == pytest.approx(2 - 0.999**3, rel=1e-6)  # bfloat16 has no such number


class Broken(Exception):
    pass


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("breaks", [False, True])
def test_applied_and_back_bit_for_bit(dtype: torch.dtype, breaks: bool):
    awkward = [float("nan"), -0.0, 1e-7, float("inf"), 1 / 3]
    parameters = named(awkward, [0.5] * 5, dtype=dtype)
    average = MovingAverage(parameters, 0.5)
    objects, before = list(parameters.values()), [p.detach().clone() for p in parameters.values()]
    average.load_state_dict({"updates": 7, "means": {"p0": torch.arange(5.0), "p1": torch.full((5,), 1 / 3)}})
    try:
        with average.applied():
            assert parameters["p0"].tolist() == [0, 1, 2, 3, 4]
            assert torch.equal(parameters["p1"].detach(), torch.full((5,), 1 / 3).to(dtype))
            assert all(p.requires_grad and p.dtype == dtype for p in parameters.values())
            if breaks:
                raise Broken
    except Broken:
        assert breaks
    assert all(one is other for one, other in zip(parameters.values(), objects, strict=True))
    for parameter, value in zip(parameters.values(), before, strict=True):
        assert torch.equal(parameter.detach().view(torch.uint8), value.view(torch.uint8))
    assert average.updates == 7
    assert average.means["p1"][0] == torch.tensor(1 / 3)


def test_applying_does_not_disturb_a_training_step():
    parameters = named([1.0, 2.0])
    optimizer = torch.optim.AdamW(parameters.values(), lr=0.1)
    average = MovingAverage(parameters, 0.9)
    results = []
    for drawing in (False, True):
        put(parameters["p0"], [1.0, 2.0])
        optimizer.state.clear()
        for _ in range(3):
            (parameters["p0"] ** 2).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            average.update()
            if drawing:
                with average.applied(), torch.no_grad():
                    assert float(parameters["p0"].sum()) != 0
        results.append(parameters["p0"].detach().clone())
    assert torch.equal(*results)


def test_resuming_goes_on_bit_for_bit():
    generator = torch.Generator().manual_seed(0)
    steps = [torch.randn(50, generator=generator) for _ in range(12)]

    def go(average: MovingAverage, parameters: dict[str, Parameter], values: list[torch.Tensor]) -> None:
        for value in values:
            put(parameters["p0"], value)
            average.update()

    parameters = named([0.0] * 50)
    whole = MovingAverage(parameters, 0.999)
    go(whole, parameters, steps[:6])
    buffer = io.BytesIO()
    state = whole.state_dict()
    torch.save(state, buffer)
    go(whole, parameters, steps[6:])
    buffer.seek(0)
    again = named([5.0] * 50)
    resumed = MovingAverage(again, 0.999)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    go(resumed, again, steps[6:])
    assert resumed.updates == whole.updates == 12
    assert torch.equal(resumed.means["p0"], whole.means["p0"])
    assert state["updates"] == 6 and not torch.equal(state["means"]["p0"], whole.means["p0"])  # a copy


@pytest.mark.parametrize("means", [{"p0": torch.zeros(3)}, {"other": torch.zeros(2)}, {}])
def test_a_state_of_another_network_is_refused(means: dict[str, torch.Tensor]):
    average = MovingAverage(named([1.0, 2.0]), 0.9)
    with pytest.raises(LoratoryError, match=r"another network: \d tensors differ"):
        average.load_state_dict({"updates": 1, "means": means})
    assert average.updates == 0 and average.means["p0"].tolist() == [1, 2]
