"""Whether the tensors of one module fit each other, and what they say about it, from their shapes alone. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Literal

from loratory.adapters.roles import ALPHA, DORA_SCALE, LORA_DOWN, LORA_MID, LORA_UP, kind_of

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
"""By role."""


@dataclass(frozen=True)
class ModuleForm:
    """What one module of a file is.

    name: of its kind, as people call it: lora, loha, lokr, glora, ia3, diag-oft, boft, full or norm. rank: None where
    there is none. weight: the shape of the base weight that it is for, kernels flattened into the inputs where the file
    does not tell them; axes that nothing tells (the inputs of a rotation, say) are left out. tucker: has a core tensor.
    dora: whether magnitudes are per output or per input. first_factor: the shape of the first matrix of LoKr; whole:
    which of its matrices are not low-rank. block_size, stages: of a rotation; stages is 1 but for boft. rescaled: a
    rotation with a factor per output. on_bias: changes the bias too. old_layout: GLoRA as older versions of LyCORIS
    wrote it, with its matrices the other way round.
    """

    name: str
    weight: Shape
    rank: int | None = None
    tucker: bool = False
    dora: Literal["", "output", "input"] = ""
    first_factor: Shape = ()
    whole: str = ""
    block_size: int = 0
    stages: int = 1
    rescaled: bool = False
    on_bias: bool = False
    old_layout: bool = False


def module_form(shapes: Shapes) -> ModuleForm | None:
    """The form of the module with tensors of these shapes, by role.

    None where tensors are missing, belong to no known kind, or do not fit each other.
    """
    kind = kind_of(set(shapes))
    if kind is None or not any(required <= shapes.keys() for required in kind.required):
        return None
    if any(0 in shape for shape in shapes.values()):  # of the rank 0, or cut off
        return None
    form = _FORMS[kind.name](shapes)
    if form is None or min(form.weight) < 1 or prod(shapes.get(ALPHA, ())) != 1:
        return None
    return form


def _lora(shapes: Shapes) -> ModuleForm | None:
    """lora_down (r, in, ...) and lora_up (out, r) or (out, r, 1...), a 3x3 kernel between them in lora_mid."""
    down, up, middle = shapes[LORA_DOWN], shapes[LORA_UP], shapes.get(LORA_MID)
    if len(down) < 2 or len(up) < 2 or prod(up[2:]) != 1:
        return None
    rank = down[0]
    if middle is None:
        weight = (up[0], *down[1:])
        fits = up[1] == rank
    else:
        weight = (up[0], down[1], *middle[2:])
        fits = middle[:2] == (up[1], rank) and prod(down[2:]) == 1
    return _with_dora(ModuleForm("lora", weight, rank, tucker=middle is not None), shapes) if fits else None


def _loha(shapes: Shapes) -> ModuleForm | None:
    """Twice w_a (out, r) and w_b (r, in); with a core t (r, r, k, k) instead w_a (r, out)."""
    pairs = [(shapes[f"hada_w{n}_a"], shapes[f"hada_w{n}_b"], shapes.get(f"hada_t{n}")) for n in (1, 2)]
    weights = [_product(*pair) for pair in pairs]
    if weights[0] is None or weights[0] != weights[1]:
        return None
    form = ModuleForm("loha", weights[0], pairs[0][1][0], tucker=pairs[0][2] is not None)
    return _with_dora(form, shapes)


def _lokr(shapes: Shapes) -> ModuleForm | None:
    first = shapes["lokr_w1"] if "lokr_w1" in shapes else _product(shapes["lokr_w1_a"], shapes["lokr_w1_b"], None)
    if "lokr_w2" in shapes:
        second: Shape | None = shapes["lokr_w2"]
    else:
        second = _product(shapes["lokr_w2_a"], shapes["lokr_w2_b"], shapes.get("lokr_t2"))
    if first is None or second is None or len(first) != 2 or len(second) < 2:
        return None
    ranks = [shapes[role][0] for role in ("lokr_w2_b", "lokr_w1_b") if role in shapes]
    form = ModuleForm(
        "lokr",
        (first[0] * second[0], first[1] * second[1], *second[2:]),
        ranks[0] if ranks else None,
        tucker="lokr_t2" in shapes,
        first_factor=first,
        whole=" and ".join(name for name in ("w1", "w2") if f"lokr_{name}" in shapes),
    )
    return _with_dora(form, shapes)


def _glora(shapes: Shapes) -> ModuleForm | None:
    """a1 (in, r), a2 (r, in), b1 (out, r), b2 (r, in, ...); in the old layout a1 and a2, b1 and b2 change places."""
    a1, a2, b1, b2 = (shapes[f"{name}.weight"] for name in ("a1", "a2", "b1", "b2"))
    if min(map(len, (a1, a2, b1, b2))) < 2:
        return None
    core = shapes.get("bm.weight")
    rank = a2[0]
    kernel = b2[2:] if core is None else core[2:]
    if a1[1] == b1[1] == b2[0] == rank and a1[0] == a2[1] == b2[1] and core in (None, (rank, rank, *kernel)):
        return ModuleForm("glora", (b1[0], b2[1], *kernel), rank, tucker=core is not None)
    rank = a1[0]
    if a2[1] == b1[0] == b2[1] == rank and a1[1] == a2[0] == b1[1] and core is None:
        return ModuleForm("glora", (b2[0], *b1[1:]), rank, old_layout=True)
    return None


def _rotation(shapes: Shapes) -> ModuleForm | None:
    """Blocks (n, s, s), or one such stack per stage; rescale has a number for each of the n * s outputs."""
    blocks = shapes["oft_blocks"]
    if len(blocks) not in (3, 4) or blocks[-1] != blocks[-2]:
        return None
    outputs = blocks[-3] * blocks[-1]
    rescale = shapes.get("rescale")
    if rescale is not None and prod(rescale) != outputs:
        return None
    return ModuleForm(
        "diag-oft" if len(blocks) == 3 else "boft",
        (outputs,),
        block_size=blocks[-1],
        stages=blocks[0] if len(blocks) == 4 else 1,
        rescaled=rescale is not None,
    )


def _full(shapes: Shapes) -> ModuleForm | None:
    weight, bias = shapes["diff"], shapes.get("diff_b")
    if not weight or bias not in (None, weight[:1]):
        return None
    return ModuleForm("full", weight, on_bias=bias is not None)


def _norm(shapes: Shapes) -> ModuleForm | None:
    weight, bias = shapes["w_norm"], shapes.get("b_norm")
    if len(weight) != 1 or bias not in (None, weight):
        return None
    return ModuleForm("norm", weight, on_bias=bias is not None)


def _ia3(shapes: Shapes) -> ModuleForm | None:
    """A number for each output or each input, all along one axis: (n), for a convolution (1, n, 1, 1)."""
    weight = shapes["weight"]
    if not weight or prod(shapes["on_input"]) != 1 or prod(weight) != max(weight):
        return None
    return ModuleForm("ia3", (prod(weight),))


_FORMS = {
    "lora": _lora,
    "loha": _loha,
    "lokr": _lokr,
    "glora": _glora,
    "oft": _rotation,
    "full": _full,
    "norm": _norm,
    "ia3": _ia3,
}


def _product(a: Shape, b: Shape, core: Shape | None) -> Shape | None:
    """The shape of a (n, r) @ b (r, m), or of the Tucker product of a (r, n) and b (r, m) with a core (r, r, ...)."""
    if len(a) != 2 or len(b) != 2:
        return None
    if core is None:
        return (a[0], b[1]) if a[1] == b[0] else None
    return (a[1], b[1], *core[2:]) if core[:2] == (a[0], b[0]) else None


def _with_dora(form: ModuleForm, shapes: Shapes) -> ModuleForm | None:
    """`form` with where its magnitudes are: (out, 1, ...) or (1, in, ...). None when they fit neither."""
    scale = shapes.get(DORA_SCALE)
    if scale is None:
        return form
    outputs, inputs = form.weight[:2]
    if prod(scale) == outputs and (len(scale) < 2 or scale[0] == outputs):
        return replace(form, dora="output")
    # Where kernels are flattened into the inputs, the magnitudes per input are some part of them.
    if scale[:1] == (1,) and len(scale) > 1 and prod(scale) == scale[1] and inputs % scale[1] == 0:
        return replace(form, dora="input")
    return None
