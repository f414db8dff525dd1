"""Adapter files of a run's name that another run made: nothing replaces them unasked."""

import re
from collections.abc import Collection
from pathlib import Path

from loratory.config.schema import Config
from loratory.errors import LoratoryError

AVERAGE = "-ema"
"""Ends the name of a file with the moving average of the weights."""


def refuse_foreign_files(config: Config, own: Collection[Path] = ()) -> None:
    """Raises LoratoryError when adapters that a run would write exist and are not its own.

    own: the files that it has written itself. Creates nothing.
    """
    output = config.output
    if output.overwrite:
        return
    mine = re.compile(rf"{re.escape(output.output_name)}(-\d{{6}}|-step\d{{8}})?({AVERAGE})?")
    found = [path for path in sorted(output.output_dir.glob("*.safetensors")) if mine.fullmatch(path.stem)]
    foreign = [path for path in found if path not in own]
    if foreign:
        more = f" and {len(foreign) - 1} more exist" if len(foreign) > 1 else " exists"
        raise LoratoryError(
            f"{foreign[0]}{more} already, and this run would replace what is there.",
            hint="Choose another output.output_name, or set output.overwrite = true.",
        )
