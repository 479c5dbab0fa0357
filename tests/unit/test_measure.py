"""The measurement that stands in for the example's recogniser."""

import wave
from array import array
from pathlib import Path

import pytest
from transcription_worker.recognise import Measurement, NotAudio, measure


def measured(path: Path) -> tuple[list[float], Measurement]:
    """All progress, and the measurement."""
    progress, steps = [], measure(path)
    while True:
        try:
            progress.append(next(steps))
        except StopIteration as end:
            result: Measurement = end.value
            return progress, result


def wav(path: Path, samples: list[int], rate: int = 16_000) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", "not compressed"))
        file.writeframes(array("h", samples).tobytes())
    return path


def test_speech_silence_and_loudness(tmp_path: Path) -> None:
    """Half a second at half of full scale and a second and a half of nothing: -6.0 dB, less the silence's -6.0 dB."""
    progress, result = measured(wav(tmp_path / "a.wav", [16_384, -16_384] * 4_000 + [0] * 24_000))
    assert (result["duration"], result["speech_seconds"], result["silence_seconds"]) == (2.0, 0.5, 1.5)
    assert result["loudness_dbfs"] == -12.0
    assert progress == sorted(set(progress))
    assert progress[-1] == 1


def test_silence_is_as_quiet_as_can_be(tmp_path: Path) -> None:
    _, result = measured(wav(tmp_path / "a.wav", [0] * 1_000))
    assert (result["speech_seconds"], result["loudness_dbfs"]) == (0.0, -90.3)


def test_what_is_no_audio_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"This is no audio.")
    with pytest.raises(NotAudio) as refusal:
        measured(path)
    assert refusal.value.code == "not_wav"
