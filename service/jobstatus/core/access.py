"""The caller of a poll, and the rule that says which jobs it may read."""

import math
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Principal:
    """The owner of a valid credential: the virtual key with this id, or an admin where it is None.

    `valid_until`, in seconds since the epoch, is when the credential expires; it may be revoked before. `identity` has
    the issuer and the subject of an admin's token, for the audit log.
    """

    virtual_key_id: str | None
    valid_until: float = field(default=math.inf, compare=False)
    identity: tuple[str, str] | None = field(default=None, compare=False)

    @property
    def is_admin(self) -> bool:
        return self.virtual_key_id is None


def may_read(principal: Principal, virtual_key_id: str | None, *, unscoped_for_all: bool) -> bool:
    """Whether the principal may read a job of this virtual key.

    A job without a virtual key is for admins only, unless `unscoped_for_all` opens it to every valid credential.
    """
    if principal.is_admin:
        return True
    if virtual_key_id is None:
        return unscoped_for_all
    return principal.virtual_key_id == virtual_key_id
