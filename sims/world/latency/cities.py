"""The default matrix: one-way delays between 32 cities, computed from their coordinates.

No measurements are used. The delay between two cities follows from their distance::

    one way = 2 * access + distance * detour / speed of light in fibre

* distance: great circle on a sphere of 6,371 km (haversine);
* speed of light in fibre: 200,000 km/s (refractive index 1.5);
* detour: 1.6, because cables follow coasts and routes follow contracts;
* access: 2 ms at each end, from a host to its city's exchange.

So Frankfurt to New York (6,200 km) takes 54 ms one way and 107 ms there and back. What this
leaves out, such as congestion and bad routes, a matrix of your own can put in.
"""

from __future__ import annotations

import math
from typing import Final

__all__ = ["ACCESS_S", "CITIES", "DETOUR", "FIBRE_KM_PER_S", "great_circle_km", "one_way_s"]

FIBRE_KM_PER_S: Final = 200_000.0
DETOUR: Final = 1.6
ACCESS_S: Final = 0.002
_EARTH_KM: Final = 6371.0

CITIES: Final[tuple[tuple[str, float, float], ...]] = (
    ("Amsterdam", 52.37, 4.90),
    ("Athens", 37.98, 23.73),
    ("Bangalore", 12.97, 77.59),
    ("Berlin", 52.52, 13.40),
    ("Bogota", 4.71, -74.07),
    ("Bucharest", 44.43, 26.10),
    ("Buenos Aires", -34.60, -58.38),
    ("Cape Town", -33.92, 18.42),
    ("Chicago", 41.88, -87.63),
    ("Dallas", 32.78, -96.80),
    ("Frankfurt", 50.11, 8.68),
    ("Helsinki", 60.17, 24.94),
    ("Hong Kong", 22.32, 114.17),
    ("Johannesburg", -26.20, 28.05),
    ("Lagos", 6.52, 3.38),
    ("London", 51.51, -0.13),
    ("Los Angeles", 34.05, -118.24),
    ("Madrid", 40.42, -3.70),
    ("Mexico City", 19.43, -99.13),
    ("Montreal", 45.50, -73.57),
    ("Moscow", 55.76, 37.62),
    ("New York", 40.71, -74.01),
    ("Paris", 48.86, 2.35),
    ("Santiago", -33.45, -70.67),
    ("Sao Paulo", -23.55, -46.63),
    ("Seoul", 37.57, 126.98),
    ("Singapore", 1.35, 103.82),
    ("Stockholm", 59.33, 18.07),
    ("Sydney", -33.87, 151.21),
    ("Tokyo", 35.68, 139.69),
    ("Warsaw", 52.23, 21.01),
    ("Zurich", 47.37, 8.54),
)
"""Name, latitude and longitude in degrees."""


def great_circle_km(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Return the distance of two points, which are latitude and longitude in degrees."""
    lat1, lon1, lat2, lon2 = map(math.radians, (*one, *other))
    half = (
        math.sin((lat2 - lat1) / 2) ** 2
        + math.cos(lat1) * math.cos(lat2) * math.sin((lon2 - lon1) / 2) ** 2
    )
    return 2 * _EARTH_KM * math.asin(math.sqrt(min(1.0, half)))


def one_way_s(distance_km: float) -> float:
    """Return the one-way delay over a distance in km, by the formula of this module."""
    return 2 * ACCESS_S + distance_km * DETOUR / FIBRE_KM_PER_S
