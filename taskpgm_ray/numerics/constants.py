"""Numbers that several rooms need."""

LN2 = 0.6931471805599453
"""ln 2, the double nearest to it: the largest Jensen-Shannon divergence in nats."""
