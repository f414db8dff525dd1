"""Two runs that sd-scripts 48d368f recorded on a tiny SD 1.5 model, replayed through this project's own code.

Latents, noise, timesteps and token ids come from the recording; the adapter, the noising, the loss, the optimizer, the
clipping and the schedule are ours. One thread and float32, as the recording was made.
"""

import json
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel

from loratory.adapters.inject import inject
from loratory.config.schema import LossSettings, NetworkSettings, OptimizerSettings
from loratory.models.text import TextConditioning
from loratory.training.batches import Batch
from loratory.training.noise import make_schedule
from loratory.training.optimizers import Optimizers, TrainedPart
from loratory.training.schedule import lr_multiplier
from loratory.training.step import forward_losses

DATA = Path(__file__).parent / "data" / "replay"
STEPS = 20


pytestmark = pytest.mark.usefixtures("one_thread")


def load_unet() -> UNet2DConditionModel:
    unet = UNet2DConditionModel.from_config(json.loads((DATA / "unet.json").read_text()))
    unet.load_state_dict(load_file(DATA / "unet.safetensors"))
    return unet.requires_grad_(False)


def load_text_encoder() -> CLIPTextModel:
    """Only the rows of the token embedding that the recording uses are stored."""
    encoder = CLIPTextModel(CLIPTextConfig.from_dict(json.loads((DATA / "text_encoder.json").read_text())))
    stored = load_file(DATA / "text_encoder.safetensors")
    table = torch.zeros(encoder.config.vocab_size, encoder.config.hidden_size)
    table[stored.pop("used_token_ids")] = stored.pop("used_token_rows")
    nested = any(name.startswith("text_model.") for name in encoder.state_dict())
    renamed = {("" if nested else "text_model.") + name: value for name, value in encoder.state_dict().items()}
    for name, value in renamed.items():
        if name.endswith("token_embedding.weight"):
            value.copy_(table)
        elif not name.endswith("position_ids"):
            value.copy_(stored[name])
    return encoder.requires_grad_(False)


@pytest.mark.parametrize(
    ("name", "v_prediction", "zero_terminal_snr"),
    [("tiny_adamw", False, False), ("tiny_vpred_ztsnr", True, True)],
)
def test_recorded_run_is_met_exactly(name: str, v_prediction: bool, zero_terminal_snr: bool) -> None:
    recorded = load_file(DATA / "tiny_adamw_batches.safetensors") | load_file(DATA / f"{name}_batches.safetensors")
    losses = json.loads((DATA / f"{name}.json").read_text())["losses"]
    unet, encoder = load_unet(), load_text_encoder()
    adapter = inject(
        unet,
        [encoder],
        "sd1",
        NetworkSettings(network_type="lora", network_dim=8, network_alpha=4),
        seed=0,
        train_unet=True,
        train_text_encoder=True,
    )
    adapter.load_kohya_state_dict(load_file(DATA / "before.safetensors"))
    settings = OptimizerSettings(optimizer_type="AdamW", learning_rate=1e-3, lr_scheduler="cosine")
    parts = [
        TrainedPart("text_encoder", adapter.parameters("te1"), 1e-3),
        TrainedPart("unet", adapter.parameters("unet"), 1e-3),
    ]
    optimizers = Optimizers(parts, settings)
    schedule = make_schedule(zero_terminal_snr=zero_terminal_snr, kohya_compatible=True)
    for module in (unet, encoder):
        module.train()

    replayed: list[float] = []
    for step in range(STEPS):

        def tensor(what: str, step: int = step) -> torch.Tensor:
            return recorded[f"step{step:03d}.{what}"]

        # Named --v2 in the v-prediction recording: the text encoder's last layer either way.
        hidden = encoder(tensor("input_ids_1").long().flatten(0, 1)).last_hidden_state
        batch = Batch(
            latents=tensor("latents"),
            noise=tensor("noise"),
            timesteps=tensor("timesteps"),
            weights=tensor("loss_weights"),
            images=[],
            time_ids=None,
            text=None,
            ids=[],
        )
        optimizers.set_multiplier(lr_multiplier(settings, step, STEPS))
        total = forward_losses(
            unet,
            batch,
            TextConditioning(hidden, None),
            schedule,
            LossSettings(min_snr_gamma=5),
            v_prediction=v_prediction,
        ).total
        total.backward()
        torch.nn.utils.clip_grad_norm_([p for part in parts for p in part.parameters], settings.max_grad_norm)
        optimizers.all[0].step()
        optimizers.zero_grad()
        replayed.append(total.item())

    # Vector square roots differ in the last bit from one make of CPU to another, hence one unit in the last place.
    assert replayed == pytest.approx(losses, rel=2.4e-7, abs=0)
    after = load_file(DATA / f"{name}_after.safetensors")
    ours = adapter.kohya_state_dict()
    assert sorted(ours) == sorted(after)
    moved = load_file(DATA / "before.safetensors")
    for key, expected in after.items():
        torch.testing.assert_close(ours[key], expected, rtol=0, atol=2e-5, msg=key)
        assert key.endswith("alpha") or not torch.equal(moved[key], expected)
