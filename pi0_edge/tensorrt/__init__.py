"""π0 for TensorRT: two programs of fixed shape, as `torch.export` graphs, as ONNX files and as plans.

`programs` cuts the network into what runs once per chunk and what runs once per Euler step, `quantize_ops` and
`explicit_layers` write its quantization out as quantize and dequantize operators, `onnx_programs` makes files of them,
`torch_tensorrt_plans` and `onnx_plans` plans, `plan_cache` keeps those, `plan` runs them, and `releases` says which
TensorRT goes with which board.
"""
