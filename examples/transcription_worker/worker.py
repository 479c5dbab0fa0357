"""A worker that transcribes a WAV file and reports its progress to JobStatus over gRPC.

JobStatus does not hand out work, so this worker gets its job and its file on the command line. `transcribe` has all
that a worker must do for JobStatus.
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
  0    the job's end is recorded: completed, or failed because the file is not audio
  1    the job's end is not recorded: the service does not answer or refuses, or the lease is lost
  2    the command line is wrong; the job has not changed
  130  stopped by Ctrl-C, 143 by SIGTERM; the job is recorded as failed if the service answers
"""

log = logging.getLogger("worker")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Transcribe a WAV file and report its progress to JobStatus.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("job_id", metavar="JOB_ID", help="the job's id, as CreateJob returned it")
    parser.add_argument("file", metavar="FILE.wav", type=Path, help="PCM, 16 bits, mono or stereo, from 16 kHz")
    parser.add_argument("--grpc", metavar="HOST:PORT", default="127.0.0.1:50051", help="the service (%(default)s)")
    parser.add_argument(
        "--worker-id", metavar="ID", help="the worker's name in the job's record (default: a random one)"
    )
    parser.add_argument(
        "--lease",
        metavar="SECONDS",
        type=float,
        default=10,
        help="fail the job after a silence of this length (%(default)s)",
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
    """Return the error that the client polls when its file is not audio. The service adds provider and model."""
    field = ErrorField(type="invalid_request_error", code=error.code, message=str(error), param="file")
    return JobError(error=field, type="invalid_request_error", status_code=400)


async def work(options: argparse.Namespace) -> int:
    """Transcribe until the job ends or a signal comes, and return the exit code."""
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
