"""What is told of files of every kind, as LyCORIS writes them: what they are, what is wrong with them."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import lycoris_files
from loratory.adapters.shapes import module_form
from loratory.adapters.summary import inspect_file
from loratory.adapters.verify import verify_file
from loratory.errors import LoratoryError

KEY = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"

# name of a network -> its type, and traits that some of its modules have.
TOLD = {
    "locon": ("locon", set()),
    "locon tucker": ("locon with tucker", {"tucker core"}),
    "dora": ("dora", {"magnitude per output"}),
    "dora per input": ("dora", {"magnitude per input"}),
    "dylora": ("locon", set()),
    "loha": ("loha", set()),
    "loha tucker": ("loha with tucker", {"tucker core"}),
    "loha dora": ("loha with DoRA", {"magnitude per output"}),
    "lokr": ("lokr", {"first factor 4 x 4", "whole w1", "whole w1 and w2"}),
    "lokr low-rank": ("lokr", {"low-rank w1 and w2"}),
    "lokr tucker": ("lokr with tucker", {"tucker core", "whole w1"}),
    "lokr whole": ("lokr", {"whole w1 and w2"}),
    "glora": ("glora", set()),
    "ia3": ("ia3", set()),
    "diag-oft": ("diag-oft", {"blocks of 4"}),
    "diag-oft rescaled": ("diag-oft", {"blocks of 4", "constraint 0.01", "rescaled"}),
    "boft": ("boft", {"blocks of 4", "3-stage"}),
    "full": ("full", {"bias too"}),
    "full with norms": ("full + norm", {"bias too"}),
}


@pytest.mark.parametrize("name", lycoris_files.NETWORKS)
def test_a_file_of_lycoris_is_understood_and_sound(tmp_path, name):
    path = lycoris_files.write(tmp_path / "a.safetensors", name)
    summary = inspect_file(path)
    network_type, traits = TOLD[name]
    assert summary.network_type == network_type
    assert traits <= summary.traits.keys()
    assert summary.incomplete == 0
    assert summary.hashes == "foreign"
    unet = next(component for component in summary.components if component.component == "unet")
    kernels = 0 if name == "lokr low-rank" else 25  # two in each of 12 resnets, and conv_in
    assert unet.convolutions == kernels
    assert (unet.norms > 0) == (name == "full with norms")
    if name in ("locon", "dora", "dylora", "loha", "glora"):
        assert unet.ranks == {4: unet.modules}
        assert unet.alphas == {2.0: unet.modules}
    findings = verify_file(path)
    assert {finding.severity for finding in findings} == {"note"}
    assert "hash" in {finding.rule for finding in findings}


@pytest.mark.parametrize("name", lycoris_files.NETWORKS)
def test_a_network_that_learned_nothing_is_found(tmp_path, name):
    network, _, _ = lycoris_files.trained(name)
    path = tmp_path / "a.safetensors"
    network.save_weights(str(path), torch.float32, {})
    state = load_file(path)
    nothing = {"lora_up.weight", "hada_w2_a", "lokr_w2", "lokr_w2_a", "a1.weight", "b1.weight", "diff", "diff_b"}
    nothing |= {"w_norm", "b_norm", "weight", "oft_blocks"}
    untrained = {
        key: torch.ones_like(tensor)
        if key.endswith("rescale")
        else torch.zeros_like(tensor)
        if key.partition(".")[2] in nothing
        else tensor
        for key, tensor in state.items()
    }
    save_file(untrained, path)
    found = [finding for finding in verify_file(path) if finding.rule == "untrained"]
    assert [finding.severity for finding in found] == ["warning", "warning"]
    assert {"UNet" in finding.message or "text encoder" in finding.message for finding in found} == {True}


def shapes(**tensors):
    return {role.replace("__", "."): shape for role, shape in tensors.items()}


LOHA = {"hada_w1_a": (8, 2), "hada_w1_b": (2, 6), "hada_w2_a": (8, 3), "hada_w2_b": (3, 6)}
GLORA = shapes(a1__weight=(8, 2), a2__weight=(2, 8), b1__weight=(6, 2), b2__weight=(2, 8))
UNFIT = {
    "lora of two ranks": shapes(lora_down__weight=(4, 6), lora_up__weight=(8, 3)),
    "lora of one axis": shapes(lora_down__weight=(4,), lora_up__weight=(8, 4)),
    "lora_up with a kernel": shapes(lora_down__weight=(4, 6, 3, 3), lora_up__weight=(8, 4, 3, 3)),
    "core of other ranks": shapes(
        lora_down__weight=(4, 6, 1, 1), lora_up__weight=(8, 4, 1, 1), lora_mid__weight=(4, 5, 3, 3)
    ),
    "magnitude of neither axis": shapes(lora_down__weight=(4, 6), lora_up__weight=(8, 4), dora_scale=(7, 1)),
    "alpha of two numbers": shapes(lora_down__weight=(4, 6), lora_up__weight=(8, 4), alpha=(2,)),
    "halves of loha for two weights": LOHA | {"hada_w2_b": (3, 5)},
    "loha with one core": LOHA | {"hada_t1": (2, 2, 3, 3)},
    "lokr of two ranks": {"lokr_w1": (2, 2), "lokr_w2_a": (4, 3), "lokr_w2_b": (2, 4)},
    "lokr with a vector": {"lokr_w1": (2, 2), "lokr_w2": (4,)},
    "glora of two inputs": GLORA | {"b2.weight": (2, 7)},
    "blocks that are not square": {"oft_blocks": (2, 4, 3)},
    "blocks of two axes": {"oft_blocks": (4, 4)},
    "rescale of another size": {"oft_blocks": (2, 4, 4), "rescale": (7, 1)},
    "bias of another size": {"diff": (8, 6), "diff_b": (6,)},
    "norm of a matrix": {"w_norm": (8, 6)},
    "ia3 of a matrix": {"weight": (8, 6), "on_input": ()},
    "no numbers at all": {"diff": (0, 6)},
    "lora of the rank 0": shapes(lora_down__weight=(0, 6), lora_up__weight=(8, 0)),
}


@pytest.mark.parametrize("case", UNFIT)
def test_tensors_that_do_not_fit_each_other_are_found(tmp_path, case):
    assert module_form(UNFIT[case]) is None
    path = tmp_path / "a.safetensors"
    save_file({f"{KEY}.{role}": torch.ones(shape) for role, shape in UNFIT[case].items()}, path)
    found = {finding.rule: finding for finding in verify_file(path)}
    assert found["shape"].severity == "error"
    assert KEY in found["shape"].message
    assert inspect_file(path).incomplete == 1


def test_a_magnitude_without_axes_is_that_of_one_output():
    form = module_form(shapes(lora_down__weight=(4, 6), lora_up__weight=(1, 4), dora_scale=()))
    assert form is not None and form.dora == "output"


def test_alpha_that_loaders_read_differently_is_found(tmp_path):
    path = tmp_path / "a.safetensors"
    pair = {f"{KEY}.lora_down.weight": torch.ones(2, 8), f"{KEY}.lora_up.weight": torch.ones(8, 2)}
    save_file(pair | {f"{KEY}.alpha": torch.tensor(0.0)}, path)
    found = {finding.rule: finding for finding in verify_file(path)}
    assert "alpha 0" in found["alpha"].message
    save_file({f"{KEY}.oft_blocks": torch.randn(2, 4, 4)}, path)
    found = {finding.rule: finding for finding in verify_file(path)}
    assert "Rotations without alpha" in found["alpha"].message


@pytest.mark.parametrize(
    ("metadata", "is_told"),
    [
        ({"algo": "dylora", "block_size": "8"}, True),
        ({"algo": "dylora"}, True),
        ({"algo": "dylora", "block_size": "1"}, False),
        ({"algo": "locon"}, False),
    ],
)
@pytest.mark.parametrize("is_ours", [True, False])
def test_the_weak_files_of_lycoris_dylora_are_told(tmp_path, metadata, is_told, is_ours):
    path = tmp_path / "a.safetensors"
    pair = {f"{KEY}.lora_down.weight": torch.ones(2, 8), f"{KEY}.lora_up.weight": torch.ones(8, 2)}
    told = {"ss_network_module": "lycoris.kohya", "ss_network_args": json.dumps(metadata)}
    save_file(pair, path, told | ({"ss_loratory_version": "1"} if is_ours else {}))
    rules = {finding.rule for finding in verify_file(path)}
    assert ("strength" in rules) == (is_told and not is_ours)


def hostile(path, listing, data=b"\0" * 16):
    text = json.dumps(listing).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def entry(**changed):
    return {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} | changed


HOSTILE = {
    "a shape of words": {f"{KEY}.diff": entry(shape=["a"])},
    "a negative shape": {f"{KEY}.diff": entry(shape=[-4])},
    "a huge shape": {f"{KEY}.diff": entry(shape=[1 << 60, 1 << 60])},
    "a place before the data": {f"{KEY}.diff": entry(data_offsets=[-8, 16])},
    "a place that ends before it begins": {f"{KEY}.diff": entry(data_offsets=[16, 0]), f"{KEY}.diff_b": entry()},
    "two tensors in one place": {f"{KEY}.diff": entry(), f"{KEY}.diff_b": entry()},
    "a type that is none": {f"{KEY}.diff": entry(dtype="F31")},
    "metadata that are numbers": {"__metadata__": {"ss_steps": 4}, f"{KEY}.diff": entry()},
    "metadata that are a list": {"__metadata__": ["ss_steps"], f"{KEY}.diff": entry()},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_header_that_lies_is_refused_in_a_sentence(tmp_path, case):
    path = tmp_path / "a.safetensors"
    hostile(path, HOSTILE[case])
    for read in (inspect_file, verify_file):
        with pytest.raises(LoratoryError) as raised:
            read(path)
        assert str(path) in raised.value.message
