"""The price list, in cents."""

PRICES = {"apple": 50, "pear": 70, "plum": 20}


class UnknownItem(LookupError):
    """Something that is not for sale."""


def sum_of(items: dict[str, int]) -> int:
    unknown = sorted(items.keys() - PRICES.keys())
    if unknown:
        raise UnknownItem(", ".join(unknown))
    return sum(PRICES[item] * count for item, count in items.items())
