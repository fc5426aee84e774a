"""Steps of the ONNX export: graph, calibration, bias correction, int8, fp16."""
