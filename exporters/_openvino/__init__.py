"""Openvino."""
