"""API keys: they are known by their SHA-256 only, and looked up in constant time.

The file maps each digest to a tenant and roles, perhaps with the models that it may use and the time at which it
expires; `dub5 keys` writes it. It is read again when it changes, so that a rotated Secret
needs no restart, and a file that has become unreadable or invalid, or whose reading hangs, leaves the last good keys in
force, as log and metric show: the next replica would not start with it. A reading that hangs is left behind in its
thread, and later ones go on.

The lookup table is keyed by a hash under a secret of this process, so what an attacker can time says
nothing about the digests; the digest itself is then compared by `hmac.compare_digest`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import hashlib
import hmac
import os
import re
import secrets
import stat
import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import msgspec

from dub5.errors import ConfigError, Forbidden, InvalidKey, ModelNotAllowed
from dub5.process.threads import DaemonThreads
from dub5.settings.loader import parse_yaml_of
from dub5.settings.model import AuthSettings, Source, read_file, read_secret
from dub5.telemetry.background import Background, BackgroundTask
from dub5.telemetry.logging import get_logger
from dub5.telemetry.metrics import Metrics

if TYPE_CHECKING:  # it needs the framework, and a command that makes keys does not
    from dub5.telemetry.record import RequestRecord

_RELOAD_INTERVAL = 2.0
_LONGEST_INTERVAL = 300.0
"""Seconds between two checks of the file; between them where more and more readings hang."""

_READ_TIMEOUT = 5.0
"""Seconds in which the file is read, or its reading counts as one that hangs."""

_MOST_RECOGNISED = 4096
"""Ways of sending a key that are remembered."""

SHOWN = 8
"""Characters of a digest that are shown: enough to find a key by, too few to be one."""
TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_log = get_logger()

Role = Literal["chat", "tenant_admin", "admin"]


class Caller(msgspec.Struct, frozen=True):
    """Who calls. `identity` tells one key from every other; `key_id` is the beginning of it, fit for logs.

    `models` are names and patterns (`openrouter/*`) of those that it may use, None for all; `expires` is in seconds
    since the epoch, None for never.
    """

    tenant: str
    identity: str
    roles: frozenset[str]
    models: tuple[str, ...] | None = None
    expires: float | None = None

    @property
    def key_id(self) -> str:
        return self.identity[:SHOWN]

    def require(self, role: Role) -> None:
        """Forbidden where the key lacks `role`; `admin` may do everything."""
        if role not in self.roles and "admin" not in self.roles:
            raise Forbidden(f"This key lacks the role `{role}`.")

    def may_use(self, model: str) -> bool:
        """Whether `model`, as callers write it, is one that the key may name."""
        return self.models is None or _any_of(self.models).fullmatch(model) is not None

    def require_model(self, model: str) -> None:
        """ModelNotAllowed where it may not; to be asked before anybody learns whether there is such a model."""
        if self.models is not None and not self.may_use(model):
            raise ModelNotAllowed(model)


@functools.lru_cache(1024)
def _any_of(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(each).replace(r"\*", ".*") for each in patterns), re.DOTALL)


ANONYMOUS = Caller("anonymous", "anonymous", frozenset(get_args(Role)))
"""Everybody, where no keys are configured: loopback, or `auth.anonymous: true`."""


class KeyRing:
    """All keys in force. With no keys configured everybody is ANONYMOUS."""

    def __init__(
        self,
        settings: AuthSettings,
        environment: dict[str, str],
        metrics: Metrics,
        background: Background | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` gives seconds since the epoch, by which keys expire."""
        self._source = settings.keys
        self.configured = settings.keys is not None
        self._metrics = metrics
        self._clock = clock
        self._secret = hashlib.blake2b(secrets.token_bytes(32), digest_size=16)
        self._callers: dict[bytes, tuple[bytes, Caller]] = {}
        self._recognised: dict[bytes, Caller] = {}  # by the hash of what they sent
        self._recognised_among = self._callers
        self._seen: tuple[int, int, int] | None = None
        self._refused: str | None = None  # why what was seen is not in force
        self._logged: str | None = None
        self._reader = DaemonThreads()
        self._background = background or Background(metrics)
        self._watcher: BackgroundTask | None = None
        if self._source is not None:
            if self._source.file is not None:
                with contextlib.suppress(OSError):
                    self._seen = _stamp(Path(self._source.file).stat())
            self._callers = self._read(self._source, environment)

    def authenticate(self, authorization: str) -> Caller:
        """The caller behind an `Authorization` header; InvalidKey otherwise."""
        if self._source is None:
            return ANONYMOUS
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise InvalidKey("Send a key: `Authorization: Bearer KEY`.")
        digest = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).digest()
        stored, caller = self._callers.get(self._blind(digest), (b"", ANONYMOUS))
        if not hmac.compare_digest(stored, digest):
            raise InvalidKey("The key is not known here.")
        if caller.expires is not None:
            self._check_expiry(caller.expires)
        return caller

    def recognise(self, sent: bytes, authorization: Callable[..., str], *read: bytes) -> Caller:
        """`authenticate`, of what `authorization` makes of what was `read` in the bytes that were `sent`; it is not
        called where these came before. They are known by a hash under a secret alone, as keys are."""
        if self._source is None:
            return ANONYMOUS
        if self._recognised_among is not self._callers or len(self._recognised) > _MOST_RECOGNISED:
            self._recognised_among, self._recognised = self._callers, {}
        hashed = self._blind(sent)
        caller = self._recognised.get(hashed)
        if caller is None:
            caller = self._recognised[hashed] = self.authenticate(authorization(*read))
        elif caller.expires is not None:
            self._check_expiry(caller.expires)
        return caller

    def as_of(self, caller: Caller) -> object:
        """What `caller` was found among: the same object until keys are read anew. A key that expires has another one
        each time, so that it is always looked at again."""
        return object() if caller.expires is not None else self._callers

    def _check_expiry(self, expires: float) -> None:
        if self._clock() >= expires:
            raise InvalidKey(f"The key expired at {written_time(expires)}.")

    def admit(self, authorization: str, role: Role, record: RequestRecord) -> Caller:
        """The same, noted in the record of its request; Forbidden where its key lacks `role`."""
        caller = ANONYMOUS if self._source is None else self.authenticate(authorization)
        record.tenant, record.key_id = caller.tenant, caller.identity[:SHOWN]
        if role not in caller.roles:
            caller.require(role)
        return caller

    async def start(self) -> None:
        if self._source is not None and self._source.file is not None:
            self._watcher = self._background.start("keys-watcher", self._watch)

    async def stop(self) -> None:
        if self._watcher is not None:
            await self._watcher.stop()

    async def reload_if_changed(self) -> None:
        """Read the file again where it changed; one that is invalid, or hangs, is logged and changes nothing."""
        if self._source is None or self._source.file is None:
            return
        where = f"auth.keys: cannot read {self._source.file!r}"
        try:
            found = await self._reader.read(self._read_changed, _READ_TIMEOUT)
            if found is not None:
                stamp, content = found
                # That takes as long as the file is large, but it ends.
                read = await self._reader.read(lambda: self._parsed(content), None)
        except TimeoutError:
            self._record(f"{where}: it takes longer than {_READ_TIMEOUT:g} s")
        except (OSError, RuntimeError) as error:  # no such file, or no descriptor or thread to read it
            self._record(f"{where}: {getattr(error, 'strerror', None) or error}")
        else:
            if found is not None:
                self._seen = stamp
                self._refused = read.message if isinstance(read, ConfigError) else None
                if not isinstance(read, ConfigError):
                    self._callers = read
                    _log.info("keys reloaded", keys=len(read))
            self._record(self._refused)

    def _record(self, refused: str | None) -> None:
        if refused is not None and refused != self._logged:
            _log.error("keys not reloaded", reason=refused)
        self._logged = refused
        self._metrics.keys_last_reload_successful.set(refused is None)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(min(_RELOAD_INTERVAL * 2**self._reader.running, _LONGEST_INTERVAL))
            await self.reload_if_changed()

    def _read_changed(self) -> tuple[tuple[int, int, int], bytes | ConfigError] | None:
        """What the file looks like and its bytes, where it is not the one that was seen. OSError where it is none.

        A FIFO or device is no file: reading it may hang.
        """
        path = Path(self._source.file or "") if self._source is not None else Path()
        status = path.stat()
        if _stamp(status) == self._seen:
            return None
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        try:
            return _stamp(status), read_file("auth.keys", path, _without_waiting)
        except ConfigError as error:
            return _stamp(status), error

    def _parsed(self, content: bytes | ConfigError) -> dict[bytes, tuple[bytes, Caller]] | ConfigError:
        if isinstance(content, ConfigError):
            return content
        try:
            return self._lookup_table(content.decode().strip())
        except ConfigError as error:
            return error
        except ValueError as error:
            return ConfigError(f"auth.keys: {self._source and self._source.file}: {type(error).__name__}")

    def _read(self, source: Source, environment: dict[str, str]) -> dict[bytes, tuple[bytes, Caller]]:
        return self._lookup_table(read_secret("auth.keys", source, environment))

    def _lookup_table(self, text: str) -> dict[bytes, tuple[bytes, Caller]]:
        return {self._blind(digest): (digest, caller) for digest, caller in parse_keys(text)}

    def _blind(self, digest: bytes) -> bytes:
        # As by `key=`, which would take a block of its own: twice the time for what is so short. It cannot be extended.
        hashed = self._secret.copy()
        hashed.update(digest)
        return hashed.digest()


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    """Changes when the file does; Kubernetes swaps the symlink behind a mounted Secret, hence the inode."""
    return status.st_ino, status.st_mtime_ns, status.st_size


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def parse_keys(text: str) -> list[tuple[bytes, Caller]]:
    """Digests and callers of a keys file; ConfigError names the entry that is wrong."""
    entries = parse_yaml_of("auth.keys", text)
    if not isinstance(entries, dict) or not entries:
        raise ConfigError("auth.keys: must map the SHA-256 of each key to its tenant and roles")
    callers: dict[bytes, Caller] = {}
    for written, entry in entries.items():
        digest, caller = _parse_entry(str(written), entry)
        if digest in callers:  # spelled in another way, which YAML takes for another name
            raise ConfigError(f"auth.keys: {caller.key_id}…: this key is written twice")
        callers[digest] = caller
    return list(callers.items())


_FIELDS = frozenset({"tenant", "roles", "models", "expires"})
_MOST_MODELS, _LONGEST_MODEL = 100, 200


def _parse_entry(digest: str, entry: Any) -> tuple[bytes, Caller]:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
        # The thing in its place may be a key in the clear: do not repeat it.
        raise ConfigError("auth.keys: each name must be the 64 hexadecimal digits of a SHA-256")
    where = f"auth.keys: {digest[:SHOWN].lower()}…"
    unknown = set(entry) - _FIELDS if isinstance(entry, dict) else {"entry"}
    tenant = entry.get("tenant") if isinstance(entry, dict) else None
    if unknown or not isinstance(tenant, str) or not TENANT.fullmatch(tenant):
        raise ConfigError(
            f"{where}: needs `tenant` (letters, digits, . _ -), and may have `roles`, `models` and `expires`"
        )
    roles = entry.get("roles", ["chat"])
    if not isinstance(roles, list) or not roles or not all(role in get_args(Role) for role in roles):
        raise ConfigError(f"{where}: roles must be of {', '.join(get_args(Role))}")
    models, expires = _models(where, entry.get("models")), _expiry(where, entry.get("expires"))
    return bytes.fromhex(digest), Caller(tenant, digest.lower(), frozenset(roles), models, expires)


def _models(where: str, written: Any) -> tuple[str, ...] | None:
    if written is None:
        return None
    if not isinstance(written, list) or not 0 < len(written) <= _MOST_MODELS:
        raise ConfigError(f"{where}: models must list 1 to {_MOST_MODELS} names; leave it out for all")
    try:
        return tuple(map(model_pattern, written))
    except ValueError as error:
        raise ConfigError(f"{where}: models: {error}") from None


def model_pattern(written: Any) -> str:
    """What a key may use; ValueError where it is none."""
    # With more than one `*` a name could be made on which a match takes long.
    if not isinstance(written, str) or not 0 < len(written) <= _LONGEST_MODEL or written.count("*") > 1:
        raise ValueError(f"each is a name of at most {_LONGEST_MODEL} characters, with one `*` at most")
    return written


def _expiry(where: str, written: Any) -> float | None:
    if written is None:
        return None
    try:
        return moment(written)
    except ValueError as error:
        raise ConfigError(f"{where}: expires: {error}") from None


def moment(written: Any) -> float:
    """Seconds since the epoch of a date or time, as YAML has read it or as text; ValueError where it is none.

    Without an offset it is UTC; a date alone is its first moment.
    """
    if isinstance(written, str):
        with contextlib.suppress(ValueError):
            written = datetime.fromisoformat(written)
    if isinstance(written, date) and not isinstance(written, datetime):
        written = datetime(written.year, written.month, written.day)  # noqa: DTZ001  # gets one below
    if not isinstance(written, datetime):
        raise ValueError(  # noqa: TRY004  # text that is no date is one, too
            "must be a date or a time, such as 2027-01-31 or 2027-01-31T12:00:00Z"
        )
    try:
        aware = written if written.tzinfo is not None else written.replace(tzinfo=UTC)
        return aware.astimezone(UTC).timestamp()
    except OverflowError:  # which could not be written either
        raise ValueError("must be of the years 1 to 9999 in UTC") from None


def written_time(seconds: float) -> str:
    """As `moment` reads it: `2027-01-31T12:00:00Z`."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
