"""`loratory lora`: everything that is done with adapter files outside a run."""

import click

from loratory.cli.lora_convert import convert
from loratory.cli.lora_extract import extract
from loratory.cli.lora_inspect import inspect, verify
from loratory.cli.lora_merge import merge
from loratory.cli.lora_resize import resize


@click.group()
def lora() -> None:
    """Look into adapter files, check and change them."""


lora.add_command(inspect)
lora.add_command(verify)
lora.add_command(resize)
lora.add_command(extract)
lora.add_command(convert)
lora.add_command(merge)
