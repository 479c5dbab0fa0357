"""The example's recogniser: what it hears, and how it tells of its progress."""

import wave
from array import array
from pathlib import Path

import pytest
from harness.recordings import RECORDING, finished, wav
from transcription_worker.recognise import Transcription, recognise

SPOKEN = "the answer to your question is ready now"


def recorded() -> "array[int]":
    """The samples of the example's recording."""
    with wave.open(str(RECORDING), "rb") as recording:
        return array("h", recording.readframes(recording.getnframes()))


@pytest.fixture(scope="module")
def heard() -> tuple[list[float], Transcription]:
    """The progress and the transcription of the example's recording."""
    return finished(recognise(RECORDING))


def test_hears_what_was_said(heard: tuple[list[float], Transcription]) -> None:
    """The example's recording is recognised word for word, with times that follow each other within its length."""
    _, transcription = heard
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


def test_progress_grows_to_one(heard: tuple[list[float], Transcription]) -> None:
    """Progress is told in more than a few steps, each larger than the one before, the last of them 1."""
    progress, _ = heard
    assert len(progress) > 10
    assert progress[0] > 0
    assert progress == sorted(set(progress))
    assert progress[-1] == 1


def test_pause_ends_a_segment(tmp_path: Path) -> None:
    """What is said after a pause is a segment of its own, and its times count from the beginning of the file."""
    samples = recorded()
    pause = array("h", [0]) * 16_000
    _, transcription = finished(recognise(wav(tmp_path / "twice.wav", (samples + pause + samples).tobytes())))
    first, second = transcription["segments"]
    assert (first["id"], second["id"]) == (0, 1)
    assert first["end"] < second["seek"] / 100 < second["start"] < second["end"] <= transcription["duration"]
    assert transcription["text"] == f"{first['text']} {second['text']}"


def test_takes_other_rates_and_stereo(tmp_path: Path) -> None:
    """The same recording in stereo at three times the rate is understood as well."""
    samples = array("h", [sample for sample in recorded() for _ in range(6)])
    _, transcription = finished(recognise(wav(tmp_path / "stereo.wav", samples.tobytes(), rate=48_000, channels=2)))
    assert transcription["text"] == SPOKEN


def test_takes_what_is_there_of_a_truncated_file(tmp_path: Path) -> None:
    """A file that is shorter than its header says is transcribed as far as it goes."""
    path = tmp_path / "truncated.wav"
    path.write_bytes(RECORDING.read_bytes()[: 44 + 32_000 + 1])
    progress, transcription = finished(recognise(path))
    assert progress[-1] == 1
    assert transcription["duration"] == 1
    assert SPOKEN.startswith(transcription["text"][:10])


def test_silence_has_no_words(tmp_path: Path) -> None:
    """A recording of silence is audio, and its text is empty."""
    _, transcription = finished(recognise(wav(tmp_path / "silence.wav", bytes(32_000))))
    assert (transcription["text"], transcription["segments"], transcription["words"]) == ("", [], [])
