"""How jobs are spread over the slots, and the names of all keys.

A job belongs to one of 64 buckets, by the CRC16 of its id. All keys of a bucket have the same hash tag, so that one
node holds them and one script can change a job and all its indexes at once. The tags are chosen so that the buckets
are spread evenly over the slots of a cluster.

    prefix:{tag}:job:<id>    hash    the job, see `encoding`
    prefix:{tag}:pending     zset    id by due_at_ms; and `processing` likewise
    prefix:{tag}:completed   zset    id by expires_at_ms; and `failed` likewise
    prefix:{tag}:listed      zset    id by created_at_ms
    prefix:{tag}:confirmed   string  written to learn whether what was read is on stable storage
    prefix:{tag}:sweeper     string  the leader, which sweeps (in the first bucket)

Virtual keys are all under the tag `keys`, see `virtual_keys`.
"""

import binascii
import itertools
from typing import Final

from jobstatus.core.job import JobState

BUCKETS: Final = 64
SLOTS: Final = 16_384
KEYS_TAG: Final = "keys"

_SLOTS_OF_A_BUCKET: Final = SLOTS // BUCKETS


def slot_of_tag(tag: str) -> int:
    """Return the slot of all keys with this hash tag."""
    return binascii.crc_hqx(tag.encode(), 0) % SLOTS


def bucket_of(job_id: bytes) -> int:
    """Return the number of the job's bucket."""
    return binascii.crc_hqx(job_id, 0) % BUCKETS


def encoded(job_id: str) -> bytes:
    """Encode any string, including lone surrogates."""
    return job_id.encode("utf-8", "surrogatepass")


def _tags() -> list[str]:
    """Return for each bucket the smallest number whose slot is in the bucket's share of the slots."""
    tags: dict[int, str] = {}
    for number in itertools.count():
        tags.setdefault(slot_of_tag(str(number)) // _SLOTS_OF_A_BUCKET, str(number))
        if len(tags) == BUCKETS:
            return [tags[share] for share in range(BUCKETS)]
    raise AssertionError  # pragma: no cover  # there is no end to numbers


class Bucket:
    """The keys of one bucket."""

    __slots__ = ("confirmed", "indexes", "job_prefix", "slot", "sweeper")

    def __init__(self, prefix: str, tag: str) -> None:
        self.slot = slot_of_tag(tag)
        start = f"{prefix}:{{{tag}}}:"
        self.job_prefix = f"{start}job:".encode()
        self.indexes = (f"{start}listed", *(f"{start}{state}" for state in JobState))
        """`listed`, then one for each state in the order of JobState: the KEYS of the scripts."""
        self.confirmed = f"{start}confirmed"
        self.sweeper = f"{start}sweeper"

    def job(self, job_id: bytes) -> bytes:
        """Return the key of a job of this bucket."""
        return self.job_prefix + job_id


class Keys:
    """Every key of one store."""

    def __init__(self, prefix: str) -> None:
        self.buckets = [Bucket(prefix, tag) for tag in _tags()]
        self.of_virtual_keys = f"{prefix}:{{{KEYS_TAG}}}:"
        self.slot_of_virtual_keys = slot_of_tag(KEYS_TAG)
        self.confirmed = {bucket.slot: bucket.confirmed for bucket in self.buckets} | {
            self.slot_of_virtual_keys: f"{self.of_virtual_keys}confirmed"
        }
        """For each slot a key in it that probes and confirmations write to."""
        self.slots = frozenset(self.confirmed)
        """All slots that this store uses."""
