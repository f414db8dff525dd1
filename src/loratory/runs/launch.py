"""What a launcher of several processes (`torchrun`, `accelerate launch`) told this one through its environment."""

import os


def process_count() -> int:
    """How many processes train together; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def process_rank() -> int:
    """The number of this process among them, from 0; the first one writes."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """The number of this process on its machine, from 0: which graphics card it uses."""
    return int(os.environ.get("LOCAL_RANK", "0"))
