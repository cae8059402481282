"""What can go wrong."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "FpsganError", "InputError", "OptionError", "OutputError", "SetupError", "TrainingError", "WeightsError",
    "check_choice",
]  # fmt: skip


class FpsganError(Exception):
    """Base of all errors meant for users: one line that says what is wrong, with which value, and what to do."""


class InputError(FpsganError):
    """The source is missing, unreadable, damaged or of a kind that is not supported."""


class OutputError(FpsganError):
    """The target cannot be written, or its container cannot hold what is asked for."""


class OptionError(FpsganError):
    """An option, or a combination of options, that makes no sense."""


class SetupError(FpsganError):
    """Something this machine lacks: ffmpeg, an encoder, a device, a package."""


class TrainingError(FpsganError):
    """Training cannot go on: its numbers are not finite."""


class WeightsError(FpsganError):
    """Weights that are unknown, damaged, or made for another network."""


def check_choice(option: str, value: str, choices: Sequence[str]) -> None:
    """Raise OptionError unless ``value`` is one of the (two or more) ``choices``."""
    if value not in choices:
        raise OptionError(f"{option} {value}: must be {', '.join(choices[:-1])} or {choices[-1]}")
