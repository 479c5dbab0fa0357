"""What the example's worker refuses, whether it transcribes a recording or measures it."""

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from harness.recordings import RECORDING, finished, wav
from transcription_worker.recognise import CAN_RECOGNISE, NotAudio, measure, recognise

Reader = Callable[[Path], Generator[float, None, Any]]


@pytest.fixture(params=[measure, recognise] if CAN_RECOGNISE else [measure])
def read(request: pytest.FixtureRequest) -> Reader:
    """Each way of reading a recording that is installed."""
    reader: Reader = request.param
    return reader


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "not_wav"),
        (b"This is no audio.", "not_wav"),
        (RECORDING.read_bytes()[:20], "not_wav"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt \xff\xff\xff\xff", "not_wav"),
        (RECORDING.read_bytes()[:20] + b"\x55" + RECORDING.read_bytes()[21:], "not_wav"),  # says that it is MP3
        (RECORDING.read_bytes()[:44], "empty_audio"),
    ],
)
def test_refuses_what_is_no_wav(tmp_path: Path, read: Reader, content: bytes, code: str) -> None:
    """A file that is no PCM WAV, or has no samples, raises NotAudio with a stable code and a sentence."""
    path = tmp_path / "file.wav"
    path.write_bytes(content)
    with pytest.raises(NotAudio, match=r"^The .*\.$") as refusal:
        finished(read(path))
    assert refusal.value.code == code


@pytest.mark.parametrize("form", [{"rate": 8000}, {"rate": 96_000}, {"width": 1}, {"width": 3}, {"channels": 3}])
def test_refuses_other_formats(tmp_path: Path, read: Reader, form: dict[str, int]) -> None:
    """A WAV whose sample rate, width or channels the worker does not take raises NotAudio."""
    with pytest.raises(NotAudio, match="must have 16 bits") as refusal:
        finished(read(wav(tmp_path / "other.wav", bytes(48_000), **form)))
    assert refusal.value.code == "unsupported_wav"


def test_refuses_what_is_too_long(tmp_path: Path, read: Reader) -> None:
    """A recording of more than half an hour raises NotAudio."""
    path = wav(tmp_path / "long.wav", b"")
    too_long = (30 * 60 * 16_000 + 1) * 2
    content = bytearray(path.read_bytes())
    content[40:44] = too_long.to_bytes(4, "little")
    content[4:8] = (36 + too_long).to_bytes(4, "little")
    with path.open("wb") as file:
        file.write(content)
        file.truncate(44 + too_long)  # a hole: nothing is written
    with pytest.raises(NotAudio, match="longer than 30 minutes") as refusal:
        finished(read(path))
    assert refusal.value.code == "audio_too_long"
