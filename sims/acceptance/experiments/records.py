"""E8: survival of a record that its owner stores only once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final

from overlay.addresses import Endpoint, NodeId
from overlay.dht.descriptor import MixDescriptor, OnionKey, Role, sign_descriptor
from overlay.dht.settings import DhtSettings
from overlay.dht.storage import RecordStore
from overlay.identity import LocalIdentity
from overlay.settings import Settings, many, number, setting, whole
from sims.acceptance.experiment import Experiment, Measurement, Progress
from sims.acceptance.experiment_result import CheckedValue, exactly, within
from sims.acceptance.experiments.ideal import IdealOverlay, as_id, drive, random_ids
from sims.acceptance.experiments.sessions import closed_forms, leaving_model
from sims.acceptance.theory import records
from sims.scenario.values import LINE
from sims.world.churn import SessionModel

__all__ = ["E8"]

_NETWORK: Final = "acceptance"
_START: Final = 1_800_000_000.0
_NODES: Final = 200
_LIVES: Final = 200
"""Number of times that the sessions of a record's holders are drawn."""


@dataclass(frozen=True, slots=True)
class Survival(Settings):
    """E8: ``draws`` records with ``k`` holders each, requested after ``minutes``."""

    model: str = setting("exponential(60min)", LINE, "Session model of the holders.")
    k: tuple[int, ...] = setting((3, 8, 20), many(whole(1, 64)), "Numbers of holders of a record.")
    minutes: tuple[float, ...] = setting(
        (60.0,),
        many(number(0.1, 170, "minutes")),
        "Times after the store at which records are requested, in minutes. A record is valid for "
        "three hours.",
    )
    draws: int = setting(20_000, whole(200, 10_000_000), "Records for each combination.")

    def check(self) -> None:
        """Check settings that depend on each other."""
        _residual(leaving_model(self.model))


def _measure(settings: Survival, seeds: int, progress: Progress) -> Measurement:
    model = leaving_model(settings.model)
    points: list[CheckedValue] = []
    for k in settings.k:
        progress(f"E8: records with {k} holders")
        rng = Random(f"E8 {seeds} {k}")
        counts = dict.fromkeys(settings.minutes, 0)
        made = expired = 0
        while made < settings.draws:
            descriptor, stores = _stored_record(k, rng)
            lives = [[_life(model, rng) for _ in stores] for _ in range(_LIVES)]
            for minutes in settings.minutes:
                counts[minutes] += sum(
                    _found(descriptor, stores, life, 60 * minutes) for life in lives
                )
            end = float(descriptor.expires)
            expired += sum(store.get(descriptor.node_id, end) is not None for store in stores)
            made += _LIVES
        points += _survival_points(model, k, counts, made)
        points.append(exactly("held beyond its expiry", k, expired, 0))
    return Measurement(points, "x: minutes for the curves, k for what outlived its expiry")


def _survival_points(
    model: SessionModel, k: int, counts: dict[float, int], made: int
) -> list[CheckedValue]:
    points = []
    for minutes, count in counts.items():
        expected = records.record_survival(_residual(model), 60 * minutes, k)
        error = math.sqrt(expected * (1 - expected) / made)
        points.append(within(f"k = {k}", minutes, count / made, expected, 3 * error, error))
    return points


def _life(model: SessionModel, rng: Random) -> float:
    """Return the residual session of a holder that is on line; infinity if it never leaves."""
    if model.permanent_share and rng.random() < model.permanent_share:
        return math.inf
    return model.on.residual(rng)


def _residual(model: SessionModel) -> Callable[[float], float]:
    """Return the fraction of holders that stay on line for a time, by the closed form."""
    moving, permanent = closed_forms(model.on).residual, model.permanent_share
    return lambda age: permanent + (1 - permanent) * moving(age)


def _stored_record(k: int, rng: Random) -> tuple[MixDescriptor, list[RecordStore]]:
    """Let a node find its k nearest nodes and store its record at each."""
    settings = DhtSettings(k=k, alpha=8)
    descriptor = _sign(LocalIdentity.generate(rng))
    own = int.from_bytes(descriptor.node_id, "big")
    overlay = IdealOverlay([own, *random_ids(_NODES, rng)], settings, rng)
    lookup = overlay.look_up(own, own, settings)
    drive(lookup, lambda query: overlay.answer(query, k))
    stores = []
    for contact in lookup.closest():
        store = RecordStore(contact.node_id, _NETWORK, settings)
        store.put(descriptor.node_id, descriptor.encoded, b"owner", _START, responsible=True)
        stores.append(store)
    return descriptor, stores


def _sign(identity: LocalIdentity) -> MixDescriptor:
    return sign_descriptor(
        identity,
        network_id=_NETWORK,
        onion_keys=(OnionKey(1, identity.onion_key),),
        esp_suites=(3,),
        endpoints=(Endpoint("11.0.0.1", 4500),),
        roles={Role.RELAY},
        exit_policy=None,
        bandwidth_kbit=1000,
        sequence=1,
        valid_from=int(_START),
        expires=int(_START) + 3 * 3600,
    )


def _found(
    descriptor: MixDescriptor, stores: list[RecordStore], lives: list[float], age_s: float
) -> bool:
    """Tell whether at least one holder on line returns the record."""
    key: NodeId = as_id(int.from_bytes(descriptor.node_id, "big"))
    return any(
        store.get(key, _START + age_s) == descriptor.encoded
        for store, life in zip(stores, lives, strict=True)
        if life > age_s
    )


E8 = Experiment(
    "E8",
    "Record survival without republishing",
    "1 - (1 - R(t))^k ±3 standard errors; nothing beyond the signed expiry, exactly",
    "minutes",
    "share of records found",
    Survival(),
    Survival(draws=8000),
    _measure,
)
