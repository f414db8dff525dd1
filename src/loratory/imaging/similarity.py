"""Which pictures of a set are alike, and in what. Each way of being alike has its own module; this is their front."""

from loratory.imaging.duplicates import Group, near_duplicates
from loratory.imaging.fingerprints import hashes, thumbnail
from loratory.imaging.overlays import Overlay, repeated_overlays
from loratory.imaging.styles import style, style_clusters

__all__ = [
    "Group",
    "Overlay",
    "hashes",
    "near_duplicates",
    "repeated_overlays",
    "style",
    "style_clusters",
    "thumbnail",
]
