"""Coupons, and what they take off."""

PERCENT_OFF = {"TEN": 10, "HALF": 50}


def discount(cents: int, coupon: str | None) -> int:
    return cents * PERCENT_OFF.get(coupon or "", 0) // 100
