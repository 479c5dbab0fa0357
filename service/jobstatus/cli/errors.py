"""How an error ends the command: with an exit code, by the error's reason, and one sentence on standard error.

Every command loads this module, `--help` included, so it imports nothing slow.
"""

from enum import IntEnum
from typing import Final

import click

from jobstatus.core.errors import JobStatusError


class ExitCode(IntEnum):
    FINE = 0
    REFUSED = 1
    USAGE = 2
    UNAVAILABLE = 3
    NOT_FOUND = 4
    CREDENTIAL = 5
    INTERRUPTED = 130
    OUTPUT_CLOSED = 141  # 128 + SIGPIPE, as if the signal had ended the process


EPILOG: Final = """\b
Exit codes:
  0    fine
  1    the job failed (poll, watch), or the service's rules refuse the call
  2    wrong usage, settings or values
  3    the service cannot be reached, cannot answer, or did not in time
  4    no such job or virtual key
  5    the credential is refused
  130  interrupted by Ctrl-C
  141  standard output is closed or cannot be written"""

_CODES: Final = {
    "INVALID_FIELD": ExitCode.USAGE,
    "RESULT_NOT_JSON": ExitCode.USAGE,
    "RESULT_TOO_LARGE": ExitCode.USAGE,
    "JOB_NOT_FOUND": ExitCode.NOT_FOUND,
    "VIRTUAL_KEY_NOT_FOUND": ExitCode.NOT_FOUND,
    "JOB_EXISTS": ExitCode.REFUSED,
    "JOB_TERMINAL": ExitCode.REFUSED,
    "JOB_NOT_STARTED": ExitCode.REFUSED,
    "LEASE_HELD": ExitCode.REFUSED,
    "LEASE_LOST": ExitCode.REFUSED,
    "CLIENT_NOT_IDENTIFIED": ExitCode.CREDENTIAL,
    "CLIENT_NOT_ALLOWED": ExitCode.CREDENTIAL,
    "STORE_FULL": ExitCode.UNAVAILABLE,
    "OVERLOADED": ExitCode.UNAVAILABLE,
    "STORE_UNAVAILABLE": ExitCode.UNAVAILABLE,
    "SHUTTING_DOWN": ExitCode.UNAVAILABLE,
    "SERVICE_UNREACHABLE": ExitCode.UNAVAILABLE,
    "ANSWER_TOO_LARGE": ExitCode.UNAVAILABLE,
    "INTERNAL": ExitCode.UNAVAILABLE,
}

_ADVICE: Final = {
    "JOB_NOT_FOUND": "`jobstatus jobs list` shows those there are",
    "VIRTUAL_KEY_NOT_FOUND": "`jobstatus keys list` shows those there are",
    "JOB_NOT_STARTED": "`jobstatus jobs start` does that",
    "LEASE_LOST": "--attempt must name the attempt that `jobstatus jobs get` shows",
    "SERVICE_UNREACHABLE": "is `jobstatus serve` running there? --grpc or JOBSTATUS_TARGET names another place",
    "CLIENT_NOT_IDENTIFIED": "--tls-cert and --tls-key name the certificate to show",
    "CLIENT_NOT_ALLOWED": "the service's settings say which clients may call",
}


class CommandError(Exception):
    """An error of the command line itself: a sentence without a full stop, and the exit code."""

    def __init__(self, sentence: str, code: ExitCode) -> None:
        super().__init__(sentence)
        self.code = code


def explain(error: Exception) -> tuple[ExitCode, str]:
    """Return the exit code and the sentence for an error. Raise an error that is a bug of this program."""
    match error:
        case CommandError():
            return error.code, str(error)
        case JobStatusError():
            return _CODES[error.reason], _advised(error)
        case click.UsageError():
            path = error.ctx.command_path if error.ctx else "jobstatus"
            return ExitCode.USAGE, f"{error.format_message().rstrip('.')} (see `{path} --help`)"
        case click.ClickException():
            return ExitCode.USAGE, error.format_message()
        case UnicodeError():
            return ExitCode.USAGE, f"text must be valid UTF-8 ({error})"
        case OSError():
            return ExitCode.REFUSED, str(error)
        case _:
            raise error


def _advised(error: JobStatusError) -> str:
    sentence = error.message.rstrip(".")
    advice = _ADVICE.get(error.reason)
    return sentence if advice is None else f"{sentence}; {advice}"
