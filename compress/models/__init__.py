"""Model families, one file each, and their contract: `Network`, a module with named taps and a named classifier."""

from compress.models._cost import count_macs, count_parameters
from compress.models._network import Network, Outputs, find_shapes
from compress.models._wrapping import build_model, wrap_module

__all__ = ["Network", "Outputs", "build_model", "count_macs", "count_parameters", "find_shapes", "wrap_module"]
