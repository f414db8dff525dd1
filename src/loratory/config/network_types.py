"""What each type of network is, what it is good for, and the limits that are its own, for people who choose one."""

from loratory.config.schema import NetworkType

ABOUT: dict[NetworkType, str] = {
    "lora": "small changes of low rank to the transformer blocks and the text encoder. For nearly everything, and "
    "loaded everywhere. Rank 32, rarely above 64.",
    "locon": "a LoRA of the convolutions too. For nearly everything, several concepts and styles among it; overfits a "
    "little sooner, and its files are a little larger. Rank 32, 64 at most; convolutions 16.",
    "dora": "a LoRA that learns the size of each weight apart from its direction. Nearer to full fine-tuning than a "
    "LoRA of its rank, and slower; some programs cannot load it.",
    "loha": "two pairs of low rank, multiplied element by element. For several concepts and for general ones; slower, "
    "weak at fine detail, hard to transfer to other base models. Rank 32 at most: its effective rank is the square.",
    "lokr": "the Kronecker product of a small and a large factor. For several concepts and for general ones; slower, "
    "weak at fine detail, hard to transfer to other base models. factor -1 for a small file, about 8 for a large one.",
    "dylora": "a LoRA of every rank up to its own at once, so that the best can be picked afterwards. For general use; "
    "slower. Rank about 128, batch size 1, gradient accumulation.",
    "glora": "changes what goes into a weight and what comes out. For styles and for concepts from varied pictures; "
    "weak at a single subject.",
    "ia3": "scales what some layers pass on, with one number for each channel. For general use and styles, in a very "
    "small file; hard to transfer to other base models, and some programs cannot load it. Rates of 5e-3 to 1e-2.",
    "diag-oft": "rotates the outputs of layers, block by block. For general use; said to learn faster, and spares what "
    "the model knows of backgrounds and poses. It has no alpha.",
    "boft": "as diag-oft, with rotations that reach across the blocks, one after the other; slower. Blocks of 10 "
    "or more.",
    "full": "every weight of the layers, saved as the difference to the base model. Very large files, much memory, and "
    "rates of 1e-6 to 1e-5.",
}
"""A sentence or two for each type, to stand behind its name and a colon."""

SPELLED: dict[NetworkType, str] = {
    "lora": "LoRA",
    "locon": "LoCon",
    "dora": "DoRA",
    "loha": "LoHa",
    "lokr": "LoKr",
    "dylora": "DyLoRA",
    "glora": "GLoRA",
    "ia3": "iA3",
    "diag-oft": "Diag-OFT",
    "boft": "BOFT",
    "full": "full fine-tuning",
}
"""The types as people write them."""
