"""The measurement that stands in for the example's recogniser."""

from array import array
from pathlib import Path

from harness.recordings import RECORDING, finished, wav
from transcription_worker.recognise import measure


def test_speech_silence_and_loudness(tmp_path: Path) -> None:
    """Half a second at half of full scale and a second and a half of nothing: -6.0 dB, less the silence's -6.0 dB."""
    samples = array("h", [16_384, -16_384] * 4_000 + [0] * 24_000)
    progress, result = finished(measure(wav(tmp_path / "a.wav", samples.tobytes())))
    assert (result["duration"], result["speech_seconds"], result["silence_seconds"]) == (2.0, 0.5, 1.5)
    assert result["loudness_dbfs"] == -12.0
    assert progress == sorted(set(progress))
    assert progress[-1] == 1


def test_silence_is_as_quiet_as_can_be(tmp_path: Path) -> None:
    _, result = finished(measure(wav(tmp_path / "a.wav", bytes(2_000))))
    assert (result["speech_seconds"], result["loudness_dbfs"]) == (0.0, -90.3)


def test_takes_other_rates_and_stereo(tmp_path: Path) -> None:
    """Two channels of half a second each are half a second, of which a channel of silence halves the amplitude."""
    samples = array("h", [16_384, 0, -16_384, 0] * 12_000)
    _, result = finished(measure(wav(tmp_path / "stereo.wav", samples.tobytes(), rate=48_000, channels=2)))
    assert (result["duration"], result["speech_seconds"], result["loudness_dbfs"]) == (0.5, 0.5, -12.0)


def test_takes_what_is_there_of_a_truncated_file(tmp_path: Path) -> None:
    """A file that is shorter than its header says is measured as far as it goes."""
    path = tmp_path / "truncated.wav"
    path.write_bytes(RECORDING.read_bytes()[: 44 + 32_000 + 1])
    progress, result = finished(measure(path))
    assert (progress[-1], result["duration"]) == (1, 1.0)
