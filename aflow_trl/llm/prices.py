"""List prices of the models of several providers, from `configs/prices.yaml`."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping

from ..assets import read_config
from .types import Price

_DATE = re.compile(r"-\d{4}-\d{2}-\d{2}$")


def list_price(host: str, model: str) -> Price:
    """
    Look up the list price of a model.

    Args:
        host (`str`):
            Host of the endpoint: another one may serve a model of the same name at a price of its choice.
        model (`str`):
            Model name, such as `"gpt-4o-mini"`; a trailing date as in `"gpt-4o-mini-2024-07-18"` is ignored.

    Returns:
        [`Price`]: The price; unknown for a host or a model that is not in the table.
    """
    prices = _list_prices().get(host, {})
    entry = prices.get(model) or prices.get(_DATE.sub("", model)) or {}
    return Price(entry.get("input"), entry.get("output"), entry.get("cached"))


@functools.cache
def _list_prices() -> Mapping[str, Mapping[str, Mapping[str, float]]]:
    prices: dict[str, dict[str, dict[str, float]]] = read_config("prices.yaml")
    return prices
