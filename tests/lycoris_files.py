"""Adapter files as LyCORIS itself writes them, made from its own network on a tiny UNet and text encoder."""

import torch
from lycoris.kohya import LycorisNetworkKohya

from adapter_models import text_encoder, tiny_models

# Its presets are kept by the class, so all of them are always given.
_PRESET = {
    "enable_conv": True,
    "unet_target_module": ["Transformer2DModel", "ResnetBlock2D"],
    "unet_target_name": ["conv_in"],
    "text_encoder_target_module": ["CLIPAttention", "CLIPMLP"],
    "text_encoder_target_name": [],
    "module_algo_map": {},
    "name_algo_map": {},
    "use_fnmatch": False,
    "exclude_name": [],
}
# Arguments of its network by name; the ranks are 4 unless given.
NETWORKS = {
    "locon": {"network_module": "locon"},
    "locon tucker": {"network_module": "locon", "use_tucker": True},
    "dora": {"network_module": "locon", "weight_decompose": True},
    "dora per input": {"network_module": "locon", "weight_decompose": True, "wd_on_out": False},
    "dylora": {"network_module": "dylora", "block_size": 2},
    "loha": {"network_module": "loha"},
    "loha tucker": {"network_module": "loha", "use_tucker": True},
    "loha dora": {"network_module": "loha", "weight_decompose": True},
    "lokr": {"network_module": "lokr", "factor": 4},
    "lokr low-rank": {"network_module": "lokr", "decompose_both": True, "lora_dim": 1, "conv_lora_dim": 0},
    "lokr tucker": {"network_module": "lokr", "use_tucker": True, "lora_dim": 1, "conv_lora_dim": 1},
    "lokr whole": {"network_module": "lokr", "full_matrix": True},
    "glora": {"network_module": "glora"},
    "ia3": {"network_module": "ia3"},
    "diag-oft": {"network_module": "diag-oft"},
    "diag-oft rescaled": {"network_module": "diag-oft", "constraint": 0.01, "rescaled": True},
    "boft": {"network_module": "boft"},
    "full": {"network_module": "full"},
    "full with norms": {"network_module": "full", "train_norm": True},
}


def models():
    """A UNet and a text encoder whose names are those that files have."""
    unet, _ = tiny_models("sd1")
    torch.manual_seed(1)
    return unet, text_encoder(projection=32).eval()


def trained(name):
    """LyCORIS' network of that name, applied to the models, with values as after training; and the models."""
    unet, encoder = models()
    LycorisNetworkKohya.apply_preset(_PRESET)
    arguments = {"lora_dim": 4, "conv_lora_dim": 4, "alpha": 2, "conv_alpha": 2, **NETWORKS[name]}
    network = LycorisNetworkKohya(encoder, unet, 1.0, warn_on_unmatched=False, **arguments)
    network.apply_to(encoder, unet, True, True)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return network.eval(), unet, encoder


def write(path, name):
    """Saves the file of a network of that name."""
    network, _, _ = trained(name)
    network.save_weights(str(path), torch.float32, {"ss_network_module": "lycoris.kohya"})
    return path
