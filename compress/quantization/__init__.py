"""Make a network int8: search for a file that meets the gate, sensitivity of layers, fake quantization, calibration images.

`LadderSearch` (`ladder.py`) is where to start; it knows no format and no run, only a `QuantizationBackend` (`candidate.py`).
"""
