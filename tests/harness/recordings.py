"""Recordings for the tests of the example's worker, and what its generators return."""

import wave
from collections.abc import Generator
from pathlib import Path
from typing import Final, TypeVar

Result = TypeVar("Result")

RECORDING: Final = Path(__file__).resolve().parents[2] / "examples" / "transcription_worker" / "recording.wav"


def wav(path: Path, samples: bytes, *, rate: int = 16_000, channels: int = 1, width: int = 2) -> Path:
    """Write these samples to a WAV file and return its path."""
    with wave.open(str(path), "wb") as recording:
        recording.setparams((channels, width, rate, 0, "NONE", "not compressed"))
        recording.writeframes(samples)
    return path


def finished(steps: Generator[float, None, Result]) -> tuple[list[float], Result]:
    """Return every progress that was yielded, and the generator's result."""
    progress: list[float] = []
    while True:
        try:
            progress.append(next(steps))
        except StopIteration as end:
            result: Result = end.value
            return progress, result
