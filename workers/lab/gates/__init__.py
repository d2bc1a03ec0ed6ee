"""Makers of the gates that tell chests and heads from anything else (``workers/images/gate_*.npz``)."""
