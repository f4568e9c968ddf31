"""The operator's program: settings and registration; what handlers do is in `handlers/`.

kopf runs it, standalone and for one namespace: one replica, and a gap between two of them is harmless, since replicas
keep the last good document. Where two run, the one that began last publishes (`redis.py`). Handlers that run on a
change only would miss what happened meanwhile; a policy is reconciled by a timer, which sees the object as it is. The
timer ticks more often than `step.every`, so that a new spec does not wait, and returns at once where nothing is due.

No finalizer holds a policy: nobody need be there for it to go. Its class has the configuration's TTL again at once
where the operator sees it go, with the next reconciliation of any policy where it does not, in a day at the latest.
Nothing is done in the cluster but to read and patch the two kinds, to delete invalidations that are done, and to
write events.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import time
from collections.abc import Callable
from typing import Any

import kopf
import msgspec
import structlog
from kopf._cogs.clients import api
from kopf._cogs.clients import errors as api_errors
from kopf._core.actions import application
from prometheus_client import start_http_server
from structlog.typing import FilteringBoundLogger

from dub5_operator.crd import GROUP, INVALIDATIONS, POLICIES, VERSION, Json
from dub5_operator.handlers import invalidation
from dub5_operator.handlers.policy import Metrics, PolicyReconciler, Report, apply
from dub5_operator.redis import GATHER, REDIS_ERRORS, Publisher, Samples, trouble

TICK = 5.0
"""Seconds between two ticks of a policy's timer."""
CLEAR_EVERY = 30.0
"""Seconds between two looks at whether the object of an invalidation is to go."""

_log: FilteringBoundLogger = structlog.get_logger()


class Options(msgspec.Struct, frozen=True):
    """Where it works. A port of 0 listens nowhere; `host` is the address of both listeners."""

    namespace: str
    host: str = "0.0.0.0"  # noqa: S104  # in its pod; probes come from outside
    health_port: int = 8080
    metrics_port: int = 9001


class Operator:
    """`redis` is an asyncio client with bytes for answers. `clock` gives seconds since the epoch. Between two documents
    there are `gather` seconds."""

    def __init__(self, redis: Any, clock: Callable[[], float] = time.time, *, gather: float = GATHER) -> None:
        self.metrics = Metrics()
        samples = Samples(redis, clock, self.metrics.undecodable)
        self.publisher = Publisher(redis, samples.now, self.metrics.undecodable, gather=gather)
        self.policies = PolicyReconciler(samples, self.publisher, self.metrics, samples.now, measure=True)
        self._not_in_force: dict[str, str] = {}
        self._overtaken = False

    def forget(self, policy: str) -> None:
        """One made again under that name is logged anew."""
        self._not_in_force.pop(policy, None)

    def log(self, policy: str, cache_class: str, report: Report | None) -> None:
        """One that is not in force is logged when the reason is another one; that none is ours any more, once."""
        ready = None if report is None else report.conditions[0]
        overtaken, self._overtaken = self._overtaken, ready is None or ready.reason == "Overtaken"
        if self._overtaken and not overtaken:
            _log.warning("operator overtaken")
        if report is None or ready is None:
            return
        before = self._not_in_force.pop(policy, None)
        if ready.status == "True":
            _log.info(
                "policy reconciled",
                policy=policy,
                cache_class=cache_class,
                ttl_seconds=report.status["ttlSeconds"],
                bound_by=report.status["boundBy"],
                reason=report.status["reason"],
            )
            return
        self._not_in_force[policy] = ready.reason
        if ready.reason != before:
            _log.warning(
                "policy not in force",
                policy=policy,
                cache_class=cache_class,
                reason=ready.reason,
                detail=ready.message,
            )


async def run(redis: Any, options: Options, **kwargs: Any) -> None:
    """Run until a signal ends it; `kwargs` go to kopf as they are."""
    operator, registry = Operator(redis), kopf.OperatorRegistry()
    register(registry, operator)

    @kopf.on.login(registry=registry, id="login")
    async def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        """In its pod by the token that is mounted there; elsewhere as kubectl does."""
        return await asyncio.to_thread(_credentials, **kwargs)

    if options.metrics_port:
        await asyncio.to_thread(
            start_http_server, options.metrics_port, addr=options.host, registry=operator.metrics.registry
        )
    # kopf would make one of the user's name, and in a container the user has none.
    identity: Any = socket.gethostname()
    host = f"[{options.host}]" if ":" in options.host else options.host
    health = f"http://{host}:{options.health_port}/healthz" if options.health_port else None
    await kopf.operator(
        registry=registry,
        standalone=True,
        namespaces=[options.namespace],
        liveness_endpoint=health,
        identity=identity,
        **kwargs,
    )


def _credentials(**kwargs: Any) -> kopf.ConnectionInfo | None:
    return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)


def configure(settings: kopf.OperatorSettings) -> None:
    """Why each is not as kopf has it."""
    settings.scanning.disabled = True  # it may not list namespaces or definitions, and needs not
    settings.persistence.finalizer = f"{GROUP}/operator"
    settings.persistence.progress_storage = kopf.StatusProgressStorage()
    # The last seen spec is kept in an annotation of ours; kopf's own name would be another operator's as well.
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=GROUP)
    settings.posting.level = logging.INFO  # only what we post ourselves; log lines stay in the log
    # A watch that the API server forgot hangs for ever, unless both sides know when to end it.
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 310
    settings.watching.connect_timeout = 30
    settings.networking.request_timeout = 30
    # A round under way ends, and is reported, before what it is reported by is closed: kopf waits for ten turns of the
    # event loop, and leaves a timer that needs more behind. Less than Kubernetes waits before it kills.
    settings.background.instant_exit_timeout = 10


def register(registry: kopf.OperatorRegistry, operator: Operator) -> None:
    """All handlers; the modules of `handlers` do the work."""
    # kopf would hold each object that has a timer until that has ended. One that is gone is no longer in the index,
    # which ends its timer too. Finalizers of releases that had them are taken away by kopf, since none is wanted.
    spawning: Any = registry._spawning  # noqa: SLF001  # it has no setting for that
    spawning.requires_finalizer = _never
    policies: Any = {"group": GROUP, "version": VERSION, "plural": POLICIES, "registry": registry}
    invalidations: Any = {"group": GROUP, "version": VERSION, "plural": INVALIDATIONS, "registry": registry}

    settings_in_use: list[kopf.OperatorSettings] = []

    @kopf.on.startup(registry=registry, id="startup")
    async def startup(settings: kopf.OperatorSettings, **_: Any) -> None:
        """Before anything is watched."""
        configure(settings)
        settings_in_use.append(settings)

    @kopf.index(**policies, id="claims")
    async def claims(name: str, uid: str, meta: Any, spec: Any, **_: Any) -> Json:
        """Which policies want to set a class's TTL."""
        return {spec.get("cacheClass"): (meta.get("creationTimestamp") or "", name, uid)}

    def is_there(uid: str, spec: Any, **kwargs: Any) -> bool:
        """Where it is not its timer ends."""
        return any(claim[2] == uid for claim in kwargs["claims"].get(spec.get("cacheClass"), []))

    @kopf.timer(**policies, id="reconcile", interval=TICK, initial_delay=_spread, when=is_there)
    async def tick(
        body: Any,
        name: str,
        uid: str,
        spec: Any,
        status: Any,
        resource: Any,
        logger: Any,
        **kwargs: Any,
    ) -> None:
        """Reconcile a policy where that is due."""
        claims = kwargs["claims"]
        if not is_there(uid, spec, claims=claims):
            return
        if not operator.policies.is_due(uid, spec):
            await operator.policies.keep(claims.keys())
            return
        report = await operator.policies.reconcile(
            name=name,
            uid=uid,
            spec=spec,
            status=status,
            claims=list(claims.get(spec["cacheClass"], [])),
            classes=claims.keys(),
        )
        operator.log(name, spec["cacheClass"], report)
        if report is None:
            return
        for event in report.events:
            kopf.event(body, type=event.kind, reason=event.reason, message=event.message)
        # In place and on the newest version of the object: a merge would replace the list of conditions.
        patch: Any = kopf.Patch(body=body)
        patch.fns.append(lambda newest: apply(newest, report))
        try:
            # Not left to kopf: a timer of which it cannot write the patch ends for good.
            version, left = await application.patch_and_check(
                settings=settings_in_use[-1], resource=resource, body=body, patch=patch, logger=logger
            )
            if left:  # there is a newer version than is known yet
                operator.policies.repeat(uid)
            if version is None and not await _is_the_same(resource, body, logger, settings_in_use[-1]):
                # Of what the API server had forgotten when a watch began anew nobody was told.
                claims._discard((body.metadata.namespace, name, uid))  # noqa: SLF001  # as if kopf had been told
                await give_back(name, uid, spec, claims)
        except Exception as error:
            operator.policies.repeat(uid)
            raise kopf.TemporaryError(f"not reported: {type(error).__name__}", delay=TICK) from error

    async def give_back(name: str, uid: str, spec: Any, claims: Any) -> None:
        """Its own TTL to the class of a policy that is gone, once Redis is there."""
        operator.forget(name)
        while True:
            claimed = list(claims.get(spec["cacheClass"], []))
            try:
                await operator.policies.gone(
                    name=name, uid=uid, class_name=spec["cacheClass"], claims=claimed
                )
                break
            except REDIS_ERRORS:
                await asyncio.sleep(TICK)
        _log.info("policy gone", policy=name, cache_class=spec["cacheClass"])

    @kopf.on.event(**policies, id="gone")
    async def gone(type: str | None, name: str, uid: str, spec: Any, **kwargs: Any) -> None:  # noqa: A002  # kopf's
        """Where kopf was told of it."""
        if type == "DELETED":
            await give_back(name, uid, spec, kwargs["claims"])

    @kopf.on.resume(**invalidations, id="purge")
    @kopf.on.create(**invalidations, id="purge")
    async def invalidate(body: Any, name: str, spec: Any, status: Any, patch: Any, **_: Any) -> None:
        """Purge, once."""
        if invalidation.is_done(status):
            return
        try:
            purged = invalidation.names(spec)
        except msgspec.ValidationError as error:  # a text that is one only by the API server's pattern
            wrong = str(error)
            patch.fns.append(lambda newest: invalidation.refused(newest, wrong))
            raise kopf.PermanentError(wrong) from None
        try:
            await operator.publisher.purge(purged)
        except REDIS_ERRORS as error:
            reason = trouble(error)
            _log.warning("purge waits", invalidation=name, error=reason)
            patch.fns.append(lambda newest: invalidation.waiting(newest, reason))
            raise kopf.TemporaryError(f"Redis does not answer: {reason}", delay=5) from None
        _log.info("purged", invalidation=name, names=purged)
        patch.fns.append(lambda newest: invalidation.done(newest, purged))
        kopf.event(
            body, type="Normal", reason="Purged", message=f"Forgotten on every replica: {', '.join(purged)}."
        )

    @kopf.index(**invalidations, id="purges")
    async def purges(uid: str, **_: Any) -> Json:
        """Those that there are."""
        return {uid: True}

    def is_kept(uid: str, **kwargs: Any) -> bool:
        """Where it is not its timer ends."""
        return uid in kwargs["purges"]

    @kopf.timer(**invalidations, id="clear", interval=CLEAR_EVERY, initial_delay=_spread, when=is_kept)
    async def clear(
        spec: Any, status: Any, resource: Any, namespace: Any, name: str, logger: Any, **_: Any
    ) -> None:
        """Delete what was done long ago, as Kubernetes does with Jobs."""
        if invalidation.is_over(spec, status, time.time()):
            await _delete(resource, namespace, name, logger, settings_in_use[-1])
            _log.info("invalidation cleared", invalidation=name)


async def _delete(resource: Any, namespace: str, name: str, logger: Any, settings: Any) -> None:
    """An object that is gone already is no matter."""
    url = resource.get_url(namespace=namespace, name=name)
    with contextlib.suppress(api_errors.APINotFoundError):
        await api.delete(url, settings=settings, logger=logger)


async def _is_the_same(resource: Any, body: Any, logger: Any, settings: Any) -> bool:
    """Whether the object of that name is still this one."""
    url = resource.get_url(namespace=body.metadata.namespace, name=body.metadata.name)
    try:
        found = await api.get(url, settings=settings, logger=logger)
    except api_errors.APINotFoundError:
        return False
    return bool(found["metadata"]["uid"] == body.metadata.uid)


def _never(**_: Any) -> bool:
    return False


def _spread(**_: Any) -> float:
    """So that not all policies are reconciled at the same time after a restart."""
    return random.uniform(0, TICK)  # noqa: S311  # no secret hangs on it
