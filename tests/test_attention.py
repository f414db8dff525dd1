"""Implementations of attention, and compiled blocks: the same losses as without them."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from diffusers.models.resnet import ResnetBlock2D
from torch._dynamo.utils import counters

from loratory.errors import LoratoryError
from loratory.runs.events import Step
from loratory.training.attention import choose_attention
from loratory.training.engine import Engine
from loratory.training.plan import make_plan
from material import make_set
from training_runs import engine_of, of_kind, saved, small_config, train

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def pictures(tmp_path: Path) -> None:
    make_set(tmp_path / "set", {"1_fox": 2})


def loss_and_gradient(engine: Engine) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the first batch, with the adapter's up tensors away from zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in engine.adapter.layers:
            layer.up.copy_(torch.randn(layer.up.shape, generator=generator) * 0.1)
    batch = engine.maker.make(engine.plan.order.batches(1)[0], 1, 0)
    torch.manual_seed(5)
    total = engine.losses(batch).total
    total.backward()
    return total.detach(), torch.cat(
        [parameter.grad.flatten() for parameter in engine.parameters if parameter.grad is not None]
    )


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_the_plain_formula_computes_what_sdpa_does(tmp_path: Path, family: Any) -> None:
    results = []
    for kind, processor in (("sdpa", AttnProcessor2_0), ("none", AttnProcessor)):
        engine = engine_of(small_config(tmp_path, family, training={"cross_attention": kind}))
        assert {type(each) for each in engine.base.unet.attn_processors.values()} == {processor}
        results.append(loss_and_gradient(engine))
    (loss, gradient), (other_loss, other_gradient) = results
    torch.testing.assert_close(other_loss, loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(other_gradient, gradient, rtol=1e-3, atol=1e-6)
    assert gradient.abs().max() > 1e-4


def test_xformers_is_refused_by_the_plan_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loratory.training.attention.find_spec", lambda name: None)
    with pytest.raises(LoratoryError, match="xformers is not installed") as caught:
        make_plan(small_config(tmp_path, training={"cross_attention": "xformers"}))
    assert "pip install xformers" in caught.value.hint


def test_xformers_that_does_not_work_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loratory.training.attention.find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "xformers", ModuleType("xformers"))
    engine = engine_of(small_config(tmp_path))
    with pytest.raises(LoratoryError, match="cannot be used here: ") as caught:
        choose_attention(engine.base.unet, "xformers")
    assert "sdpa" in caught.value.hint


def test_an_unknown_compiler_is_refused_by_the_plan(tmp_path: Path) -> None:
    training = {"torch_compile": True, "dynamo_backend": "no_such_compiler"}
    with pytest.raises(LoratoryError, match="no_such_compiler") as caught:
        make_plan(small_config(tmp_path, training=training))
    assert "inductor" in caught.value.hint


@pytest.fixture
def compiled() -> Iterator[Callable[[], int]]:
    """How many graphs were compiled since it was asked last; nothing that was compiled outlives the test."""
    limit = torch._dynamo.config.recompile_limit
    torch._dynamo.reset()

    def graphs() -> int:
        count = counters["stats"]["unique_graphs"]
        counters.clear()
        return count

    graphs()
    yield graphs
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = limit


def test_the_repeated_blocks_are_compiled(tmp_path: Path) -> None:
    unet = engine_of(small_config(tmp_path, training={"torch_compile": True, "dynamo_backend": "eager"})).base.unet
    blocks = [module for module in unet.modules() if isinstance(module, BasicTransformerBlock | ResnetBlock2D)]
    assert len(blocks) > 4
    assert {id(m) for m in unet.modules() if m._compiled_call_impl is not None} == {id(block) for block in blocks}


def compare(
    folder: Path, backend: str, compiled: Callable[[], int], *, weaker: bool = False, **tables: dict[str, Any]
) -> None:
    """Losses and gradients, and the base model's prediction with the adapter off, with compiled blocks and without.

    weaker: also at half the strength, for which all is compiled anew.
    """
    results: list[list[torch.Tensor]] = []
    for settings in ({}, {"torch_compile": True, "dynamo_backend": backend}):
        training = tables.get("training", {}) | settings
        engine = engine_of(small_config(folder, **(tables | {"training": training})))
        result = [*loss_and_gradient(engine)]
        batch = engine.maker.make(engine.plan.order.batches(1)[0], 1, 0)
        with engine.judged(), torch.no_grad():
            result.append(engine.losses(batch).total)
            with engine.adapter.disabled():
                result.append(engine.losses(batch).total)
            if weaker:
                engine.adapter.multiplier = 0.5
                result.append(engine.losses(batch).total)
        assert (compiled() > 0) == bool(settings)
        results.append(result)
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-6)
    assert len({float(loss) for loss in results[0][2:]}) == (3 if weaker else 2)


@pytest.mark.slow
def test_compiled_blocks_compute_the_same(tmp_path: Path, compiled: Callable[[], int]) -> None:
    network = {"network_train_unet_only": True, "network_dropout": 0.3, "rank_dropout": 0.3}
    compare(tmp_path, "eager", compiled, weaker=True, network=network, training={"gradient_checkpointing": True})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "checkpointing"),
    [
        ({"network_type": "locon", "module_dropout": 0.5}, True),
        ({"network_type": "dora"}, False),
    ],
    ids=["locon", "dora"],
)
def test_every_network_can_be_compiled(
    tmp_path: Path, compiled: Callable[[], int], network: dict[str, Any], checkpointing: bool
) -> None:
    network = {"network_train_unet_only": True} | network
    compare(tmp_path, "aot_eager", compiled, network=network, training={"gradient_checkpointing": checkpointing})


@pytest.mark.slow
def test_a_compiled_run_gives_the_same_adapter(tmp_path: Path, compiled: Callable[[], int]) -> None:
    results = []
    for name, settings in (("plain", {}), ("compiled", {"torch_compile": True, "dynamo_backend": "aot_eager"})):
        config = small_config(
            tmp_path,
            network={"network_train_unet_only": True},
            training=settings,
            loss={"diff_output_preservation": True},
            sample={"prompts": ["a fox --w 64 --h 64 --s 2"], "sample_every_n_steps": 1},
            output={"output_name": name},
        )
        _, _, events = train(config)
        results.append((torch.tensor([step.loss for step in of_kind(events, Step)]), saved(config)))
    assert compiled() > 0
    (losses, adapter), (other_losses, other_adapter) = results
    torch.testing.assert_close(other_losses, losses, rtol=1e-4, atol=0)
    # Adam divides by the size of a gradient, rounding included: of what is near zero nothing but its bound is sure.
    for name, tensor in adapter.items():
        assert (other_adapter[name] - tensor).abs().mean() < 1e-4
