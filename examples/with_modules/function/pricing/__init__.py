"""What an order costs."""

from .coupons import discount
from .prices import UnknownItem, sum_of

__all__ = ["UnknownItem", "discount", "sum_of"]
