"""Judges a run by its events: what is unusual, what goes wrong, and in plain sentences what to do about it. Pure."""

from loratory.runs.diagnosis.alarm import Alarm
from loratory.runs.diagnosis.diagnosis import Diagnosis
from loratory.runs.diagnosis.timesteps import TimestepNorm

__all__ = ["Alarm", "Diagnosis", "TimestepNorm"]
