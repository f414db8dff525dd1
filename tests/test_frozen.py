from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from adapter_models import fill, real_size_models, tiny_models, unet_inputs
from loratory.adapters.adapter import Adapter
from loratory.adapters.files import read_adapter, save_adapter
from loratory.adapters.inject import inject
from loratory.adapters.self_check import compare_with_live
from loratory.config.schema import Config, NetworkSettings, TrainingSettings
from loratory.errors import LoratoryError
from loratory.training import frozen
from loratory.training.frozen import offload_blocks, refuse_unsuited_storage, store_weights, swappable_blocks
from loratory.training.frozen_layers import FrozenConv2d, FrozenLinear, can_freeze, freeze, stored

CPU = torch.device("cpu")
FROZEN = FrozenLinear | FrozenConv2d
# Of a layer's output, root mean square relative to that of the exact layer; weights and inputs normally distributed.
ERROR = {"fp8": 0.03, "int8": 0.012}

LAYERS = {
    "linear": (lambda: nn.Linear(48, 40), (2, 5, 48)),
    "linear of a matrix": (lambda: nn.Linear(48, 40, bias=False), (7, 48)),
    "linear of 4 dimensions": (lambda: nn.Linear(48, 40), (2, 3, 5, 48)),
    "conv 3x3": (lambda: nn.Conv2d(16, 24, 3, padding=1), (2, 16, 9, 8)),
    "conv 1x1": (lambda: nn.Conv2d(16, 24, 1, bias=False), (2, 16, 8, 8)),
    "strided": (lambda: nn.Conv2d(16, 24, 3, stride=2, padding=1), (2, 16, 9, 8)),
    "uneven": (lambda: nn.Conv2d(16, 24, (3, 5), stride=(2, 1), padding=(0, 2), dilation=(2, 1)), (2, 16, 13, 8)),
    "grouped": (lambda: nn.Conv2d(16, 24, 3, padding=2, dilation=2, groups=4), (3, 16, 8, 8)),
}


def pair(name: str) -> tuple[Any, Any, tuple[int, ...]]:
    """A frozen layer twice, with the same values, and the shape of an input."""
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    plain, other = make().requires_grad_(False), make().requires_grad_(False)
    other.load_state_dict(plain.state_dict())
    return plain, other, shape


def run(layer: nn.Module, shape: tuple[int, ...], autocast: torch.dtype | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Output, and gradient of the input, for the same random input and gradient each time."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(shape, generator=generator).requires_grad_()
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        output = layer(x)
    output.backward(torch.randn(output.shape, generator=generator).to(output.dtype))
    assert x.grad is not None
    return output.detach(), x.grad


class TestLayers:
    @pytest.mark.parametrize("name", LAYERS)
    @pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16])
    def test_main_memory_changes_no_bit(self, name: str, autocast: torch.dtype | None) -> None:
        plain, other, shape = pair(name)
        plain.to(autocast or torch.float32)
        freeze(other, "cpu", CPU, autocast or torch.float32)
        for found, expected in zip(run(other, shape, autocast), run(plain, shape, autocast), strict=True):
            assert found.dtype == expected.dtype
            assert torch.equal(found, expected)

    @pytest.mark.parametrize("name", LAYERS)
    @pytest.mark.parametrize("kind", ["fp8", "int8"])
    @pytest.mark.parametrize("autocast", [None, torch.bfloat16])
    def test_eight_bits_stay_near(self, name: str, kind: Any, autocast: torch.dtype | None) -> None:
        plain, other, shape = pair(name)
        for layer in (plain, other):
            layer.load_state_dict(
                {
                    key: torch.randn(v.shape, generator=torch.Generator().manual_seed(2))
                    for key, v in plain.state_dict().items()
                }
            )
        freeze(other, kind, CPU, autocast or torch.float32)
        exact = run(plain, shape, None)
        for found, expected in zip(run(other, shape, autocast), exact, strict=True):
            assert 0 < float((found.float() - expected).norm() / expected.norm()) < ERROR[kind]

    @pytest.mark.parametrize("name", LAYERS)
    def test_gradients_are_those_of_the_function(self, name: str) -> None:
        _, layer, shape = pair(name)
        layer.double()
        freeze(layer, "int8", CPU, torch.float64)
        small = (1, *shape[1:]) if len(shape) > 2 else shape
        assert torch.autograd.gradcheck(
            layer, torch.randn(small, dtype=torch.float64, requires_grad=True), fast_mode=True
        )

    @pytest.mark.parametrize("name", ["linear", "conv 3x3"])
    def test_inputs_in_another_order_of_memory(self, name: str) -> None:
        plain, layer, shape = pair(name)
        freeze(layer, "cpu", CPU, torch.float32)
        generator = torch.Generator().manual_seed(1)
        x = torch.randn((1, *shape[:0:-1]), generator=generator).transpose(1, -1)
        assert not x.is_contiguous()
        results = []
        for either in (plain, layer):
            leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
            output = either(leaf)
            output.transpose(1, -1).square().sum().backward()
            results.append((output, leaf.grad))
        for found, expected in zip(*results, strict=True):
            torch.testing.assert_close(found, expected)

    def test_an_input_without_gradient(self) -> None:
        plain, other, shape = pair("linear")
        freeze(other, "cpu", CPU, torch.float32)
        x = torch.randn(shape)
        assert torch.equal(other(x), plain(x))
        assert not other(x).requires_grad

    def test_float16_inputs_outside_autocast(self) -> None:
        plain, other, shape = pair("conv 3x3")
        freeze(other, "cpu", CPU, torch.float16)
        x = torch.randn(shape, dtype=torch.float16)
        assert torch.equal(other(x), plain.half()(x))

    @pytest.mark.parametrize("kind", ["fp8", "int8", "cpu"])
    def test_backward_keeps_no_weight(self, kind: Any) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 64), nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3))
        model.requires_grad_(False)
        x = torch.randn(2, 64, requires_grad=True)
        saved: list[int] = []

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            saved.append(tensor.nbytes)
            return tensor

        def count() -> int:
            saved.clear()
            with (
                torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
                torch.autocast("cpu", torch.bfloat16),
            ):
                model(x).sum().backward()
            return sum(saved)

        assert count() >= sum(p.numel() for p in model.parameters() if p.dim() > 1) * 2
        for index in (0, 2, 3):
            freeze(model[index], kind, CPU, torch.bfloat16)  # pyright: ignore
        assert count() == 0

    @pytest.mark.parametrize("name", ["linear", "strided"])
    def test_gradient_checkpointing_changes_nothing(self, name: str) -> None:
        _, layer, shape = pair(name)
        freeze(layer, "fp8", CPU, torch.bfloat16)
        factor = torch.tensor(2.0, requires_grad=True)
        results = []
        for through in (False, True):
            x = torch.ones(shape).requires_grad_()
            factor.grad = None

            def body(x: torch.Tensor) -> torch.Tensor:
                return (layer(x * factor) ** 2).sin()

            with torch.autocast("cpu", torch.bfloat16):
                output = checkpoint(body, x, use_reentrant=False) if through else body(x)
            output.float().sum().backward()
            results.append((output.detach(), x.grad, factor.grad))
        for one, other in zip(*results, strict=True):
            assert torch.equal(one, other)

    @pytest.mark.parametrize("kind", ["fp8", "int8", "cpu"])
    def test_moving_and_casting_the_model_leave_the_weight(self, kind: Any) -> None:
        _, layer, shape = pair("linear")
        freeze(layer, kind, CPU, torch.float32)
        at_rest = layer.stored
        model = nn.Sequential(layer)
        before = run(model, shape, None)
        model.to(torch.bfloat16)
        assert layer.bias.dtype == torch.bfloat16
        model.to("meta")
        assert layer.bias.is_meta
        assert layer.stored is at_rest
        assert not at_rest.values.is_meta
        layer.bias = None
        assert torch.equal(run(model, shape, None)[1], before[1])
        assert list(model.parameters()) == list(model.buffers()) == []

    def test_it_stays_the_layer_it_was(self) -> None:
        plain, layer, shape = pair("conv 3x3")
        seen: list[Any] = []
        layer.register_forward_hook(lambda module, _, output: seen.append(module))
        model = nn.Sequential(layer)
        freeze(layer, "int8", CPU, torch.bfloat16)
        run(model.eval(), shape, None)
        assert seen == [layer] and model[0] is layer and isinstance(layer, nn.Conv2d) and not layer.training
        assert (layer.weight.shape, layer.weight.dtype, layer.weight.device) == (
            plain.weight.shape,
            torch.bfloat16,
            CPU,
        )

    def test_what_it_cannot_store(self) -> None:
        assert not can_freeze(nn.Conv2d(4, 4, 3, padding="same"))
        assert not can_freeze(nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"))
        assert not can_freeze(nn.Conv1d(4, 4, 3))
        assert not can_freeze(nn.Embedding(4, 4))


class TestQuantization:
    @pytest.mark.parametrize(("kind", "largest"), [("fp8", 448), ("int8", 127)])
    def test_each_channel_uses_the_whole_range(self, kind: Any, largest: float) -> None:
        weight = torch.randn(5, 300) * torch.tensor([[1e-6], [1e-2], [1.0], [50.0], [1e30]])
        at_rest = stored(weight, kind, CPU, torch.float32)
        assert at_rest.scale is not None and at_rest.scale.dtype == torch.float32
        assert at_rest.values.float().abs().amax(1).tolist() == [largest] * 5
        assert torch.allclose(at_rest.scale[:, 0], weight.abs().amax(1) / largest)

    @pytest.mark.parametrize("kind", ["fp8", "int8"])
    def test_channels_of_zeros_and_of_next_to_nothing(self, kind: Any) -> None:
        weight = torch.stack([torch.zeros(6), torch.full((6,), 1e-40), torch.ones(6)])
        fetched = stored(weight, kind, CPU, torch.float32).fetch(CPU, torch.float32)
        assert torch.allclose(fetched, weight, atol=1e-39)
        assert torch.equal(fetched[0], weight[0])

    @pytest.mark.parametrize("kind", ["fp8", "int8"])
    def test_the_same_weight_gives_the_same_bytes_whatever_format_it_came_in(self, kind: Any) -> None:
        weight = torch.randn(16, 200, generator=torch.Generator().manual_seed(0)).half()
        one, two = stored(weight, kind, CPU, torch.float32), stored(weight.float(), kind, CPU, torch.bfloat16)
        assert torch.equal(one.values.view(torch.uint8), two.values.view(torch.uint8))
        assert one.scale is not None and two.scale is not None
        assert torch.equal(one.scale, two.scale)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("kind", ["fp8", "int8"])
    def test_half_precision_rounds_once(self, kind: Any, dtype: torch.dtype) -> None:
        at_rest = stored(torch.randn(16, 200) * 1e-3, kind, CPU, dtype)
        assert torch.equal(at_rest.fetch(CPU, dtype), at_rest.fetch(CPU, torch.float32).to(dtype))

    def test_int8_is_the_finer_one(self) -> None:
        weight = torch.randn(64, 1280, generator=torch.Generator().manual_seed(0))
        errors = {
            kind: float(
                (stored(weight, kind, CPU, torch.float32).fetch(CPU, torch.float32) - weight).norm() / weight.norm()
            )
            for kind in ("fp8", "int8")
        }
        assert errors["int8"] == pytest.approx(0.008, abs=0.002)
        assert errors["fp8"] == pytest.approx(0.0265, abs=0.002)


def trained(
    kind: Any = None,
    *,
    family: str = "sd1",
    autocast: torch.dtype | None = None,
    checkpointing: bool = False,
    steps: int = 3,
    swapped: int = 0,
) -> tuple[list[float], list[torch.Tensor], torch.Tensor, Adapter, nn.Module]:
    """Losses of a few steps, first gradients of adapter and input, and what was trained."""
    unet, encoders = tiny_models(family)  # type: ignore[arg-type]
    network = NetworkSettings(network_type="locon", network_dim=4, network_alpha=4, conv_dim=4)
    adapter = inject(unet, encoders, family, network, seed=1, train_unet=True, train_text_encoder=False)  # type: ignore[arg-type]
    fill(adapter)
    dtype = autocast or torch.float32
    if swapped:
        offload_blocks(unet, swapped, CPU, dtype)
    if kind:
        store_weights(unet, kind, CPU, dtype)
    for parameter in unet.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    unet.to(CPU).train()
    if checkpointing:
        unet.enable_gradient_checkpointing()
    parameters = adapter.parameters("unet")
    optimizer = torch.optim.SGD(parameters, lr=0.05)
    inputs: dict[str, Any] = unet_inputs(family)
    inputs["sample"].requires_grad_()
    losses: list[float] = []
    gradients: list[torch.Tensor] = []
    for step in range(steps):
        with torch.autocast("cpu", autocast, enabled=autocast is not None):
            output = unet(**inputs).sample
        loss = (output.float() - 1).square().mean()
        loss.backward()
        if step == 0:
            gradients = [p.grad.clone() for p in parameters if p.grad is not None]
        losses.append(float(loss.detach()))
        optimizer.step()
        optimizer.zero_grad()
    return losses, gradients, inputs["sample"].grad, adapter, unet


@pytest.fixture
def tiny_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers of a few hundred weights are large ones here, so that tiny models have many."""
    monkeypatch.setattr(frozen, "_LEAST_WEIGHTS", 300)


@pytest.mark.usefixtures("tiny_counts")
class TestUnet:
    @pytest.mark.parametrize("family", ["sd1", "sdxl"])
    @pytest.mark.parametrize("autocast", [None, torch.bfloat16])
    def test_main_memory_trains_bit_for_bit_the_same(self, family: str, autocast: torch.dtype | None) -> None:
        expected = trained(family=family, autocast=autocast)
        found = trained("cpu", family=family, autocast=autocast)
        assert sum(isinstance(module, FROZEN) for module in found[4].modules()) > 10
        assert found[0] == expected[0]
        assert len(found[1]) == len(expected[1]) > 0
        assert all(map(torch.equal, found[1], expected[1]))
        assert torch.equal(found[2], expected[2])
        assert found[0][-1] < found[0][0]

    @pytest.mark.parametrize(("kind", "tolerance"), [("fp8", 0.03), ("int8", 0.01)])
    @pytest.mark.parametrize("autocast", [None, torch.bfloat16])
    def test_eight_bits_train_nearly_the_same(self, kind: Any, tolerance: float, autocast: torch.dtype | None) -> None:
        expected, found = trained(autocast=autocast), trained(kind, autocast=autocast)
        assert found[0] == pytest.approx(expected[0], rel=tolerance)
        assert found[0] != expected[0]
        assert found[0][-1] < found[0][0]

    @pytest.mark.parametrize("kind", ["fp8", "cpu"])
    def test_gradient_checkpointing_changes_nothing(self, kind: Any) -> None:
        plain, again = (
            trained(kind, autocast=torch.bfloat16),
            trained(kind, autocast=torch.bfloat16, checkpointing=True),
        )
        assert plain[0] == again[0]
        assert all(map(torch.equal, plain[1], again[1]))

    def test_swapping_and_eight_bits_together(self) -> None:
        expected = trained("int8", steps=1)
        unet, inputs = expected[4], unet_inputs("sd1")
        with torch.no_grad():
            before = unet(**inputs).sample
            resting = {id(layer.stored) for layer in unet.modules() if isinstance(layer, FROZEN)}
            names = offload_blocks(unet, 3, CPU, torch.float32)
            assert torch.equal(unet(**inputs).sample, before)
        moved = [
            name
            for name, layer in unet.named_modules()
            if isinstance(layer, FROZEN) and id(layer.stored) not in resting
        ]
        assert moved and all(name.startswith(tuple(f"{block}." for block in names)) for name in moved)
        mixed = trained("int8", steps=1, swapped=3)
        kinds = {layer.stored.values.dtype for layer in mixed[4].modules() if isinstance(layer, FROZEN)}
        assert kinds == {torch.int8, torch.float32}
        assert mixed[0] == pytest.approx(expected[0], rel=0.01)

    @pytest.mark.parametrize("kind", ["fp8", "int8", "cpu"])
    def test_the_adapter_is_saved_and_verified_as_ever(self, kind: Any, tmp_path: Any) -> None:
        adapter = trained(kind, autocast=torch.bfloat16, steps=1)[3]
        path = tmp_path / "adapter.safetensors"
        save_adapter(path, adapter.kohya_state_dict(), {}, "float")
        assert compare_with_live(path, adapter) == 0
        adapter.load_kohya_state_dict(read_adapter(path).state_dict)
        adapter.apply_max_norm(0.01)
        adapter.load_raw_state(adapter.raw_state())

    def test_disabling_the_adapter_gives_the_stored_base(self) -> None:
        _, _, _, adapter, unet = trained("cpu", steps=1)
        bare, _ = tiny_models("sd1")
        inputs: Any = unet_inputs("sd1")
        with torch.no_grad(), adapter.disabled():
            assert torch.equal(unet.eval()(**inputs).sample, bare(**inputs).sample)

    def test_an_adapter_is_injected_into_a_stored_model(self) -> None:
        unet, encoders = tiny_models("sd1")
        store_weights(unet.requires_grad_(False), "fp8", CPU, torch.bfloat16)
        # Its layers are told by their class, which peft must still know.
        adapter = inject(unet, encoders, "sd1", NetworkSettings(), seed=1, train_unet=True, train_text_encoder=False)
        assert {parameter.dtype for parameter in adapter.parameters("unet")} == {torch.float32}


class TestWhatIsStored:
    def test_small_first_last_and_trained_layers_stay(self) -> None:
        unet, _ = tiny_models("sdxl")
        unet.requires_grad_(False)
        wide = nn.Module()
        wide.conv_in, wide.norm = nn.Conv2d(64, 64, 3), nn.GroupNorm(4, 64)
        wide.time_embedding = nn.Sequential(nn.Linear(128, 128))
        wide.large, wide.small, wide.taught = nn.Linear(100, 100), nn.Linear(99, 101), nn.Linear(128, 128)
        wide.requires_grad_(False)
        wide.taught.requires_grad_(True)
        saved = store_weights(wide, "int8", CPU, torch.bfloat16)
        assert [name for name, layer in wide.named_modules() if isinstance(layer, FROZEN)] == ["large"]
        assert saved == 100 * 100 * 2 - (100 * 100 + 100 * 4)
        assert store_weights(wide, "int8", CPU, torch.bfloat16) == 0

    @pytest.mark.parametrize(("kind", "per_weight"), [("fp8", 1), ("int8", 1), ("cpu", 0)])
    def test_bytes_spared(self, kind: Any, per_weight: int) -> None:
        layer = nn.Linear(100, 200).requires_grad_(False)
        model = nn.Sequential(layer)
        other = torch.device("meta") if kind == "cpu" else CPU
        scales = 200 * 4 if per_weight else 0
        assert store_weights(model, kind, other, torch.bfloat16) == 20_000 * (2 - per_weight) - scales
        stored_bytes = layer.stored.values.nbytes  # type: ignore[attr-defined]
        assert stored_bytes == 20_000 * (per_weight or 2)

    def test_text_encoders(self) -> None:
        _, (encoder,) = tiny_models("sd1")
        encoder.requires_grad_(False)
        with torch.device("cpu"):
            wide = nn.ModuleDict({"encoder": encoder, "mlp": nn.Linear(200, 200).requires_grad_(False)})
        assert store_weights(wide, "fp8", CPU, torch.float32) > 0
        assert not any(isinstance(module, FROZEN) for module in encoder.modules())


class TestBlocks:
    @pytest.mark.parametrize(("family", "count"), [("sd1", 38), ("sdxl", 87)])
    def test_the_largest_of_the_published_models(self, family: str, count: int) -> None:
        unet, _ = real_size_models(family)
        names = swappable_blocks(unet)
        assert len(names) == len(set(names)) == count
        sizes = [sum(p.numel() for p in unet.get_submodule(name).parameters()) for name in names]
        assert sizes[0] == max(sizes)
        assert names[0] == "up_blocks.0.resnets.0"
        if family == "sdxl":
            assert sum(sizes[:3]) > 100e6
            stacked = "mid_block.attentions.0.transformer_blocks."
            assert [name for name in names if name.startswith(stacked)] == [f"{stacked}{i}" for i in range(10)]

    def test_only_those_blocks_are_moved(self) -> None:
        unet, _ = tiny_models("sdxl")
        names = swappable_blocks(unet.requires_grad_(False))
        assert offload_blocks(unet, 2, CPU, torch.float32) == names[:2]
        moved = [name for name, layer in unet.named_modules() if isinstance(layer, FROZEN)]
        assert moved
        assert all(name.startswith(tuple(f"{block}." for block in names[:2])) for name in moved)
        assert swappable_blocks(unet) == names

    def test_more_blocks_than_there_are(self) -> None:
        unet, _ = tiny_models("sd1")
        with pytest.raises(LoratoryError, match=r"blocks_to_swap = 99: the UNet has \d+ blocks"):
            offload_blocks(unet, 99, CPU, torch.float32)


class TestRefusal:
    def config(self, training: dict[str, Any], network_type: str = "lora") -> Config:
        return Config.model_construct(
            training=TrainingSettings.model_validate({"max_train_steps": 1} | training),
            network=NetworkSettings.model_validate({"network_type": network_type}),
        )

    @pytest.mark.parametrize(
        "storage", [{"fp8_base": True}, {"fp8_base_unet": True}, {"int8_base": True}, {"blocks_to_swap": 1}]
    )
    @pytest.mark.parametrize("network_type", ["dora", "full", "boft"])
    def test_networks_that_read_the_base(self, storage: dict[str, Any], network_type: str) -> None:
        unet, _ = tiny_models()
        with pytest.raises(LoratoryError, match=f"training.{next(iter(storage))}.*{network_type}"):
            refuse_unsuited_storage(self.config(storage, network_type), unet)
        refuse_unsuited_storage(self.config({}, network_type), unet)
        refuse_unsuited_storage(self.config(storage, "locon"), unet)
        refuse_unsuited_storage(self.config(storage, "diag-oft"), unet)

    @pytest.mark.parametrize("network_type", ["lora", "locon", "loha", "lokr"])
    def test_dora_of_every_type_reads_the_base(self, network_type: str) -> None:
        unet, _ = tiny_models()
        config = self.config({"int8_base": True}, network_type)
        refuse_unsuited_storage(config, unet)
        decomposed = config.model_copy(update={"network": config.network.model_copy(update={"dora_wd": True})})
        with pytest.raises(LoratoryError, match=r"int8_base.*dora_wd = true"):
            refuse_unsuited_storage(decomposed, unet)

    def test_compiling_and_too_many_blocks(self) -> None:
        unet, _ = tiny_models()
        with pytest.raises(LoratoryError, match="torch_compile"):
            refuse_unsuited_storage(self.config({"int8_base": True, "torch_compile": True}), unet)
        with pytest.raises(LoratoryError, match="blocks_to_swap = 50"):
            refuse_unsuited_storage(self.config({"blocks_to_swap": 50}), unet)

    def test_fp8_on_apples_gpu(self) -> None:
        with pytest.raises(LoratoryError, match="Apple"):
            store_weights(nn.Sequential(), "fp8", torch.device("mps"), torch.float16)
