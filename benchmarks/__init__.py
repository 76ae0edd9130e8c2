"""How fast fnship is, beside its limit and its peers. It measures, and asserts nothing."""
