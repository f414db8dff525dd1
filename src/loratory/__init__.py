"""Loratory: prepare, tag, check, train and watch LoRA and LyCORIS adapters from the terminal."""

__version__ = "0.1.0"
