"""Hostile pictures end to end, through the commands and panes as a person uses them: each a finding, none a crash,
nothing lost."""

import ctypes
import json
import os
import re
import stat
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hostile_pictures import BAD, GOOD, NAMES, forge, jpeg_of_scans, named, pattern
"""
