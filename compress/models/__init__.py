"""Model families, one file each, and their contract: `Network`, a module with named taps and a named classifier."""

from compress.models._cost import count_macs, count_parameters
from compress.models._input import Adapted, InputFormat, adapt_input, adapt_teacher, reorder_classes, run_normalised
from compress.models._network import Auxiliary, Network, Outputs, find_shapes
from compress.models._pretrained import Published, find_published
from compress.models._wrapping import build_model, refuse_empty, wrap_module

__all__ = [
    "Adapted",
    "Auxiliary",
    "InputFormat",
    "Network",
    "Outputs",
    "Published",
    "adapt_input",
    "adapt_teacher",
    "build_model",
    "count_macs",
    "count_parameters",
    "find_published",
    "find_shapes",
    "refuse_empty",
    "reorder_classes",
    "run_normalised",
    "wrap_module",
]
