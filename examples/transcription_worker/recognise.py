"""Recognise the speech in a WAV file, in the form of OpenAI's `verbose_json`, or measure the file instead.

The recogniser is PocketSphinx, because its wheel contains the US English model: no download, no GPU, no account. This
module does not depend on JobStatus. PocketSphinx holds the interpreter's lock while it works, so the recording is
decoded in short pieces and cut into utterances at the speaker's pauses, which keeps every step below a second.
"""

import math
import wave
from array import array
from collections.abc import Generator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, TypedDict

if TYPE_CHECKING:
    from pocketsphinx import Decoder, Endpointer

CAN_RECOGNISE: Final = find_spec("pocketsphinx") is not None
"""False where PocketSphinx has no wheel; a recording can then be measured only."""
MAX_SECONDS: Final = 30 * 60
MAX_UTTERANCE_SECONDS: Final = 15
SAMPLE_RATES: Final = (16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
"""The rates that cover the model's band (up to 6.8 kHz) and that both the decoder and the endpointer accept."""
SAMPLE_BYTES: Final = 2
FRAMES_PER_SECOND: Final = 100
"""The decoder's unit of time, and that of `seek`."""


FRAME_MS: Final = 20
FULL_SCALE: Final = 32_768
SPEECH_DBFS: Final = -40.0
QUIETEST_DBFS: Final = -90.3
"""A mean square of one, the smallest step of 16 bits."""


class Word(TypedDict):
    word: str
    start: float
    end: float


class Segment(TypedDict):
    """The speech between two pauses. `seek` is the start of its utterance, in hundredths of a second."""

    id: int
    seek: int
    start: float
    end: float
    text: str


class Transcription(TypedDict):
    """OpenAI's `verbose_json` without the fields that PocketSphinx cannot fill (temperature, log probabilities …)."""

    task: str
    language: str
    duration: float
    text: str
    segments: list[Segment]
    words: list[Word]


class Measurement(TypedDict):
    """Length, speech and loudness of a recording. Loudness is in dB of full scale, at least QUIETEST_DBFS."""

    task: str
    duration: float
    speech_seconds: float
    silence_seconds: float
    loudness_dbfs: float
    text: str


class NotAudio(Exception):
    """The file is not audio that can be transcribed. `code` is stable; the text is a sentence for a person."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def recognise(path: Path) -> Generator[float, None, Transcription]:
    """Transcribe a PCM WAV file of 16 bits, mono or stereo, at one of SAMPLE_RATES and of at most MAX_SECONDS.

    Yield the decoded fraction, which grows from above 0 to exactly 1, and return the transcription. Raise NotAudio
    before the first yield, and OSError when the file cannot be read.
    """
    from pocketsphinx import Decoder, Endpointer  # noqa: PLC0415  # may be absent

    with path.open("rb") as file:
        recording = _read_header(file)
        total = _count_samples(recording, path.stat().st_size - file.tell())
        rate, channels = recording.getframerate(), recording.getnchannels()
        decoder, endpointer = Decoder(samprate=rate, loglevel="FATAL"), Endpointer(sample_rate=rate)
        utterances: list[tuple[int, list[Word]]] = []
        done = begin = yielded = 0
        decoder.start_utt()
        while done < total:
            samples = _mono(recording.readframes(endpointer.frame_bytes // SAMPLE_BYTES), channels)
            decoder.process_raw(samples)
            done = min(done + endpointer.frame_bytes // SAMPLE_BYTES, total)
            if _is_pause(endpointer, samples) or done - begin >= MAX_UTTERANCE_SECONDS * rate or done == total:
                decoder.end_utt()
                seek = begin * FRAMES_PER_SECOND // rate
                utterances.append((seek, _words(decoder, seek)))
                decoder.start_utt()
                begin = done
            if done * 100 // total > yielded:  # a hundred steps are enough, however long the recording
                yielded = done * 100 // total
                yield done / total
    return _transcription(total / rate, utterances)


def measure(path: Path) -> Generator[float, None, Measurement]:
    """Measure length, speech, silence and loudness. Accept, yield and raise the same as `recognise`.

    A frame is speech when its loudness is at least SPEECH_DBFS.
    """
    with path.open("rb") as file:
        recording = _read_header(file)
        total = _count_samples(recording, path.stat().st_size - file.tell())
        rate, channels = recording.getframerate(), recording.getnchannels()
        frame = rate * FRAME_MS // 1000
        done = speech = yielded = 0
        energy = 0.0
        while done < total:
            count = min(frame, total - done)
            of_frame = math.fsum(sample * sample for sample in array("h", _mono(recording.readframes(count), channels)))
            done, energy = done + count, energy + of_frame
            speech += count if _dbfs(of_frame / count) >= SPEECH_DBFS else 0
            if done * 100 // total > yielded:
                yielded = done * 100 // total
                yield done / total
    return _measurement(total / rate, speech / rate, _dbfs(energy / total))


def _dbfs(mean_square: float) -> float:
    return 10 * math.log10(max(mean_square, 1) / FULL_SCALE**2)


def _measurement(duration: float, speech: float, loudness: float) -> Measurement:
    return {
        "task": "measure",
        "duration": round(duration, 2),
        "speech_seconds": round(speech, 2),
        "silence_seconds": round(duration - speech, 2),
        "loudness_dbfs": round(max(loudness, QUIETEST_DBFS), 1),
        "text": f"{speech:.1f} s of speech in {duration:.1f} s, at {max(loudness, QUIETEST_DBFS):.1f} dBFS",
    }


def _read_header(file: BinaryIO) -> wave.Wave_read:
    """Leave the file where the samples begin, or raise NotAudio unless it is a WAV that the decoder can be given."""
    try:
        recording = wave.Wave_read(file)
    except (wave.Error, EOFError, RuntimeError) as error:  # the last: a chunk that reaches beyond the file
        raise NotAudio("not_wav", f"The file is not a PCM WAV file ({str(error) or 'it ends too early'}).") from error
    width, channels, rate = recording.getsampwidth(), recording.getnchannels(), recording.getframerate()
    if width == SAMPLE_BYTES and channels in {1, 2} and rate in SAMPLE_RATES:
        return recording
    raise NotAudio(
        "unsupported_wav",
        f"The recording has {width * 8} bits, {rate} Hz and {channels} channel(s); it must have 16 bits, "
        f"one of {', '.join(map(str, SAMPLE_RATES))} Hz and one or two channels.",
    )


def _count_samples(recording: wave.Wave_read, present_bytes: int) -> int:
    """How many samples each channel really has: the header of a truncated or streamed file promises more."""
    total = min(recording.getnframes(), present_bytes // (SAMPLE_BYTES * recording.getnchannels()))
    if total <= 0:
        raise NotAudio("empty_audio", "The recording is empty.")
    if total > MAX_SECONDS * recording.getframerate():
        raise NotAudio("audio_too_long", f"The recording is longer than {MAX_SECONDS // 60} minutes.")
    return total


def _mono(samples: bytes, channels: int) -> bytes:
    """The mean of the channels; bytes that are no whole sample, as at the end of a truncated file, are left out."""
    samples = samples[: len(samples) - len(samples) % (SAMPLE_BYTES * channels)]
    if channels == 1:
        return samples
    both = array("h", samples)
    return array("h", [(left + right) // 2 for left, right in zip(both[::2], both[1::2], strict=True)]).tobytes()


def _is_pause(endpointer: "Endpointer", samples: bytes) -> bool:
    """Whether the speaker stopped with this frame. Only the moment counts: every sample is decoded, pauses too."""
    if len(samples) < endpointer.frame_bytes:
        return False
    was_speaking = endpointer.in_speech
    endpointer.process(samples)
    return bool(was_speaking and not endpointer.in_speech)


def _words(decoder: "Decoder", seek: int) -> list[Word]:
    """The words of the utterance that just ended, without fillers (<sil>, [NOISE]) and variants' numbers ("and(2)")."""
    return [
        {
            "word": part.word.partition("(")[0],
            "start": round((seek + part.start_frame) / FRAMES_PER_SECOND, 2),
            "end": round((seek + part.end_frame + 1) / FRAMES_PER_SECOND, 2),
        }
        for part in decoder.seg() or ()
        if part.word[0] not in "<[+"
    ]


def _transcription(duration: float, utterances: list[tuple[int, list[Word]]]) -> Transcription:
    spoken = [(seek, words, " ".join(word["word"] for word in words)) for seek, words in utterances if words]
    return {
        "task": "transcribe",
        "language": "english",
        "duration": round(duration, 2),
        "text": " ".join(text for _, _, text in spoken),
        "segments": [
            {"id": number, "seek": seek, "start": words[0]["start"], "end": words[-1]["end"], "text": text}
            for number, (seek, words, text) in enumerate(spoken)
        ],
        "words": [word for _, words, _ in spoken for word in words],
    }
