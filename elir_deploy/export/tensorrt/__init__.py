"""Engines from ONNX files, by TensorRT-RTX ahead of time or by TensorRT on the device.

Nothing here imports torch or onnx: this is what runs on a Jetson.
"""
