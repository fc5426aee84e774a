"""Steps of the OpenVINO export: graph, int8 by NNCF, writing the two files."""
