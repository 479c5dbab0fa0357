"""`jobstatus keys`: virtual keys and their sk-bf- keys.

A key is made and printed here; the service gets only its hash.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import click

from jobstatus.cli.connect import with_client
from jobstatus.cli.errors import EPILOG
from jobstatus.cli.output import emit_json, emit_line, emit_virtual_keys, note, now_ms, virtual_key_document
from jobstatus.cli.params import SPAN, GroupInOrder, json_option
from jobstatus.core.errors import VirtualKeyNotFound
from jobstatus.core.virtual_keys import KEY_PREFIX, VirtualKey, hash_key

if TYPE_CHECKING:  # help does not wait for gRPC
    from jobstatus.client import JobStatusClient

_KEY_BYTES: Final = 32


@click.group(name="keys", cls=GroupInOrder, epilog=EPILOG)
def command() -> None:
    """Manage virtual keys and their sk-bf- keys over gRPC.

    A virtual key is the tenant that jobs belong to; its holders may poll them. A change takes effect within 5 s.

    \b
    Example:
      key=$(jobstatus keys create team-a)
      JOBSTATUS_TOKEN=$key jobstatus poll demo
    """


@command.command(epilog=EPILOG)
@click.argument("virtual_key_id")
@click.option("--expires-in", type=SPAN, help="When the virtual key and all its keys expire. Unchanged if not given.")
@json_option
@with_client
async def create(client: JobStatusClient, *, virtual_key_id: str, expires_in: timedelta | None, as_json: bool) -> None:
    """Make a key for a virtual key and print it. It cannot be shown again.

    The virtual key is created if it does not exist. Its other keys go on working.
    """
    before = await _find(client, virtual_key_id)
    key = KEY_PREFIX + secrets.token_urlsafe(_KEY_BYTES)
    stored = await client.put_virtual_key(
        virtual_key_id,
        key_sha256=[*(before.key_sha256 if before else ()), hash_key(key)],
        disabled=before.disabled if before else False,
        expires_at=_expiry(before) if expires_in is None else datetime.now(UTC) + expires_in,
    )
    if as_json:
        emit_json(virtual_key_document(stored) | {"key": key})
    else:
        emit_line(key)
    note(f"This key of {virtual_key_id} is not shown again.")
    if stored.disabled:
        note(f"{virtual_key_id} is disabled; `jobstatus keys enable {virtual_key_id}` lets its keys work.")
    _note_expiry(stored)


@command.command(name="list", epilog=EPILOG)
@json_option
@with_client
async def list_(client: JobStatusClient, *, as_json: bool) -> None:
    """List virtual keys by their ids."""
    if as_json:
        async for virtual_key in client.list_virtual_keys():
            emit_json(virtual_key_document(virtual_key))
    else:
        emit_virtual_keys([virtual_key async for virtual_key in client.list_virtual_keys()])


@command.command(epilog=EPILOG)
@click.argument("virtual_key_id")
@json_option
@with_client
async def disable(client: JobStatusClient, *, virtual_key_id: str, as_json: bool) -> None:
    """Disable a virtual key: its keys and JWTs are refused."""
    await _set_disabled(client, virtual_key_id, disabled=True, as_json=as_json)


@command.command(epilog=EPILOG)
@click.argument("virtual_key_id")
@json_option
@with_client
async def enable(client: JobStatusClient, *, virtual_key_id: str, as_json: bool) -> None:
    """Enable a virtual key: its keys and JWTs are accepted again, unless it has expired."""
    await _set_disabled(client, virtual_key_id, disabled=False, as_json=as_json)


@command.command(epilog=EPILOG)
@click.argument("virtual_key_id")
@json_option
@with_client
async def delete(client: JobStatusClient, *, virtual_key_id: str, as_json: bool) -> None:
    """Delete a virtual key and its keys. JWTs that name it still work: disable it to stop those."""
    await client.delete_virtual_key(virtual_key_id)
    if as_json:
        emit_json({"virtual_key_id": virtual_key_id})
    else:
        emit_line(f"{virtual_key_id} deleted")


async def _find(client: JobStatusClient, virtual_key_id: str) -> VirtualKey | None:
    try:
        return await client.get_virtual_key(virtual_key_id)
    except VirtualKeyNotFound:
        return None


async def _set_disabled(client: JobStatusClient, virtual_key_id: str, *, disabled: bool, as_json: bool) -> None:
    before = await client.get_virtual_key(virtual_key_id)
    stored = await client.put_virtual_key(
        virtual_key_id, key_sha256=before.key_sha256, disabled=disabled, expires_at=_expiry(before)
    )
    if as_json:
        emit_json(virtual_key_document(stored))
    else:
        emit_line(f"{virtual_key_id} {'disabled' if disabled else 'enabled'}")
    if not disabled:
        _note_expiry(stored)


def _note_expiry(virtual_key: VirtualKey) -> None:
    if virtual_key.has_expired(now_ms()):
        name = virtual_key.virtual_key_id
        note(f"{name} has expired; `jobstatus keys create {name} --expires-in 30d` makes a key and lets all keys work.")


def _expiry(virtual_key: VirtualKey | None) -> datetime | None:
    if virtual_key is None or virtual_key.expires_at_ms is None:
        return None
    return datetime.fromtimestamp(virtual_key.expires_at_ms / 1000, UTC)
