"""The example's recogniser: what it hears, how it tells of its progress, and what it refuses."""

import wave
from array import array
from pathlib import Path

import pytest
from transcription_worker.recognise import NotAudio, Transcription, recognise

RECORDING = Path(__file__).resolve().parents[2] / "examples" / "transcription_worker" / "recording.wav"
SPOKEN = "the answer to your question is ready now"


def recognised(path: Path) -> tuple[list[float], Transcription]:
    """Every progress that was yielded, and the transcription."""
    progress, steps = [], recognise(path)
    while True:
        try:
            progress.append(next(steps))
        except StopIteration as end:
            return progress, end.value


def recorded() -> "array[int]":
    """The samples of the example's recording."""
    with wave.open(str(RECORDING), "rb") as recording:
        return array("h", recording.readframes(recording.getnframes()))


def wav(path: Path, samples: bytes, *, rate: int = 16_000, channels: int = 1, width: int = 2) -> Path:
    """A WAV file of these samples."""
    with wave.open(str(path), "wb") as recording:
        recording.setparams((channels, width, rate, 0, "NONE", "not compressed"))
        recording.writeframes(samples)
    return path


def test_hears_what_was_said() -> None:
    """The example's recording is recognised word for word, with times that follow each other within its length."""
    _, transcription = recognised(RECORDING)
    times = [time for word in transcription["words"] for time in (word["start"], word["end"])]
    assert [word["word"] for word in transcription["words"]] == SPOKEN.split()
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] <= transcription["duration"]
    assert transcription == {
        "task": "transcribe",
        "language": "english",
        "duration": 2.46,
        "text": SPOKEN,
        "segments": [{"id": 0, "seek": 0, "start": times[0], "end": times[-1], "text": SPOKEN}],
        "words": transcription["words"],
    }


def test_progress_grows_to_one() -> None:
    """Progress is told in more than a few steps, each larger than the one before, the last of them 1."""
    progress, _ = recognised(RECORDING)
    assert len(progress) > 10
    assert progress[0] > 0
    assert progress == sorted(set(progress))
    assert progress[-1] == 1


def test_pause_ends_a_segment(tmp_path: Path) -> None:
    """What is said after a pause is a segment of its own, and its times count from the beginning of the file."""
    samples = recorded()
    pause = array("h", [0]) * 16_000
    _, transcription = recognised(wav(tmp_path / "twice.wav", (samples + pause + samples).tobytes()))
    first, second = transcription["segments"]
    assert (first["id"], second["id"]) == (0, 1)
    assert first["end"] < second["seek"] / 100 < second["start"] < second["end"] <= transcription["duration"]
    assert transcription["text"] == f"{first['text']} {second['text']}"


def test_takes_other_rates_and_stereo(tmp_path: Path) -> None:
    """The same recording in stereo at three times the rate is understood as well."""
    samples = array("h", [sample for sample in recorded() for _ in range(6)])
    _, transcription = recognised(wav(tmp_path / "stereo.wav", samples.tobytes(), rate=48_000, channels=2))
    assert transcription["text"] == SPOKEN


def test_takes_what_is_there_of_a_truncated_file(tmp_path: Path) -> None:
    """A file that is shorter than its header says is transcribed as far as it goes."""
    path = tmp_path / "truncated.wav"
    path.write_bytes(RECORDING.read_bytes()[: 44 + 32_000 + 1])
    progress, transcription = recognised(path)
    assert progress[-1] == 1
    assert transcription["duration"] == 1
    assert SPOKEN.startswith(transcription["text"][:10])


def test_silence_has_no_words(tmp_path: Path) -> None:
    """A recording of silence is audio, and its text is empty."""
    _, transcription = recognised(wav(tmp_path / "silence.wav", bytes(32_000)))
    assert (transcription["text"], transcription["segments"], transcription["words"]) == ("", [], [])


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
def test_refuses_what_is_no_wav(tmp_path: Path, content: bytes, code: str) -> None:
    """A file that is no PCM WAV, or has no samples, raises NotAudio with a stable code and a sentence."""
    path = tmp_path / "file.wav"
    path.write_bytes(content)
    with pytest.raises(NotAudio, match=r"^The .*\.$") as refusal:
        recognised(path)
    assert refusal.value.code == code


@pytest.mark.parametrize("form", [{"rate": 8000}, {"rate": 96_000}, {"width": 1}, {"width": 3}, {"channels": 3}])
def test_refuses_other_formats(tmp_path: Path, form: dict[str, int]) -> None:
    """A WAV whose sample rate, width or channels the decoder cannot be given raises NotAudio."""
    with pytest.raises(NotAudio, match="must have 16 bits") as refusal:
        recognised(wav(tmp_path / "other.wav", bytes(48_000), **form))
    assert refusal.value.code == "unsupported_wav"


def test_refuses_what_is_too_long(tmp_path: Path) -> None:
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
        recognised(path)
    assert refusal.value.code == "audio_too_long"
