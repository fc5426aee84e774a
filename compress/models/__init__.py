"""Model families, one file each, and their contract: `Network`, a module with named taps and a named classifier."""

from compress.models._network import Network, Outputs, find_shapes

__all__ = ["Network", "Outputs", "find_shapes"]
