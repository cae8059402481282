"""What can go wrong, as one tree.

FpsganError                every error that is the user's to read: one line, no traceback
├── InputError             the source is missing, unreadable, damaged or of a kind we do not take
├── OutputError            the target cannot be written, or its container cannot hold what is asked
├── OptionError            a value or a combination of options that makes no sense
├── SetupError             ffmpeg, an encoder, a device or a package is missing on this machine
├── TrainingError          training cannot go on: its numbers are not finite
└── WeightsError           weights that are unknown, damaged or made for another network
"""

from __future__ import annotations

__all__ = ["FpsganError", "InputError", "OptionError", "OutputError", "SetupError", "TrainingError", "WeightsError"]


class FpsganError(Exception):
    """Base of all errors meant for people: the message says what is wrong, with which value, and what to do."""


class InputError(FpsganError):
    """The source cannot be read as asked."""


class OutputError(FpsganError):
    """The target cannot be written as asked."""


class OptionError(FpsganError):
    """An option, or a combination of options, that makes no sense."""


class SetupError(FpsganError):
    """Something this machine lacks: ffmpeg, an encoder, a device, a package."""


class TrainingError(FpsganError):
    """Training cannot go on."""


class WeightsError(FpsganError):
    """Weights that are unknown, damaged, or made for another network."""
