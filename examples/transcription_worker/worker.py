"""A worker: transcribes a WAV file and tells JobStatus, over gRPC, how it goes.

Where a worker gets its work from is no concern of JobStatus, so this one is told on the command line. All that a worker
has to do for JobStatus is in `transcribe`.
"""

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Generator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from jobstatus.client import ErrorField, JobError, JobStatusClient, JobStatusError

if TYPE_CHECKING:
    from transcription_worker.recognise import CAN_RECOGNISE, Measurement, NotAudio, Transcription, measure, recognise
else:  # in a script's path is its own folder, not the one above
    from recognise import CAN_RECOGNISE, Measurement, NotAudio, Transcription, measure, recognise

EXIT_CODES = """\
exit codes:
  0    how the job ended is recorded: completed, or failed because the file is no audio
  1    how the job ended is not recorded: the service does not answer or refuses, or the lease is lost
  2    the command line is wrong; the job was not touched
  130  stopped by Ctrl-C, 143 by SIGTERM; the job is recorded as failed if the service answers
"""

log = logging.getLogger("worker")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Transcribe a WAV file and tell JobStatus how it goes.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("job_id", metavar="JOB_ID", help="the job, as CreateJob answered it")
    parser.add_argument("file", metavar="FILE.wav", type=Path, help="PCM, 16 bits, mono or stereo, from 16 kHz")
    parser.add_argument("--grpc", metavar="HOST:PORT", default="127.0.0.1:50051", help="the service (%(default)s)")
    parser.add_argument("--worker-id", metavar="ID", help="who works, for the job's record (one made up for this run)")
    parser.add_argument(
        "--lease",
        metavar="SECONDS",
        type=float,
        default=10,
        help="a silence as long as this fails the job (%(default)s)",
    )
    options = parser.parse_args()
    if not options.file.is_file() or not os.access(options.file, os.R_OK):
        parser.error(f"{options.file} is not a file that can be read")
    return options


async def transcribe(options: argparse.Namespace) -> None:
    """Start the job, report progress while the file is decoded, and record how the job ended."""
    async with (
        JobStatusClient(options.grpc) as client,
        client.run_job(options.job_id, worker_id=options.worker_id, lease=timedelta(seconds=options.lease)) as run,
    ):
        log.info("job %s started, attempt %d", options.job_id, run.attempt)
        steps = recognise(options.file) if CAN_RECOGNISE else measure(options.file)
        try:
            while isinstance(step := await asyncio.to_thread(advance, steps), float):
                run.report(progress=step, message="decoding")
        except NotAudio as error:
            log.warning("%s cannot be transcribed: %s", options.file, error)
            run.fail(bad_request(error), status_code=400)
        else:
            log.info("%s: %s", "heard" if CAN_RECOGNISE else "measured", step["text"])
            run.complete(step)
    log.info("job %s ended", options.job_id)


def advance(steps: Generator[float, None, Transcription | Measurement]) -> float | Transcription | Measurement:
    """Return the next progress, or at the end the transcription or measurement.

    One thread call for each step, not one for all: a cancellation then ends the decoding as well, within a step.
    """
    try:
        return next(steps)
    except StopIteration as end:
        result: Transcription | Measurement = end.value
        return result


def bad_request(error: NotAudio) -> JobError:
    """What the client polls when it sent something that is no audio; the service adds provider and model."""
    field = ErrorField(type="invalid_request_error", code=error.code, message=str(error), param="file")
    return JobError(error=field, type="invalid_request_error", status_code=400)


async def work(options: argparse.Namespace) -> int:
    """Transcribe until a signal comes; the exit code."""
    task = asyncio.create_task(transcribe(options))
    received: list[int] = []

    def stop(number: int) -> None:
        received.append(number)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):  # Windows: Ctrl-C interrupts asyncio.run by itself
            asyncio.get_running_loop().add_signal_handler(number, stop, number)
    try:
        await task
    except asyncio.CancelledError:
        if not received:
            raise
        log.warning("stopped by %s", signal.Signals(received[0]).name)
        return 128 + received[0]
    except JobStatusError as error:
        log.error("job %s: %s", options.job_id, error)  # noqa: TRY400  # a sentence, no traceback
        return 1
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    sys.exit(asyncio.run(work(parse_arguments())))
