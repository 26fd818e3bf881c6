"""What a GPU node costs an hour, so that idle time can be said in money."""

from __future__ import annotations

from dataclasses import dataclass

SOURCE = "EC2 on demand, us-east-1"
DATE = "2026-07-20"


@dataclass(frozen=True)
class Price:
    """`usd_per_hour` of one `instance` with `cards` accelerators; as of `date`, by `source`."""

    instance: str
    usd_per_hour: float
    cards: int
    date: str = DATE
    source: str = SOURCE


PRICES = {
    price.instance: price
    for price in (
        Price("p4d.24xlarge", 21.96, 8),
        Price("p5.48xlarge", 55.04, 8),
        Price("p5en.48xlarge", 63.30, 8),
        Price("p6-b200.48xlarge", 113.93, 8),
        Price("g6e.48xlarge", 30.13, 8),
    )
}
# Which node a card is rented in, by the beginning of a profile's name.
NODE_OF = {"a100": "p4d.24xlarge", "h100": "p5.48xlarge", "h200": "p5en.48xlarge"}
NODE_OF |= {"l40s": "g6e.48xlarge"}


def price_of(profile: str) -> Price | None:
    """The node that `profile` ("h100-1b") is rented in, or None where no price is known."""
    instance = NODE_OF.get(profile.partition("-")[0])
    return PRICES[instance] if instance else None
