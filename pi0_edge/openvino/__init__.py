"""OpenVINO runs the two programs of `pi0_edge.tensorrt.programs`, on what it calls a device: CPU, GPU, NPU.

* `installed`: the package and the devices that it finds here.
* `schemes`: what of a scheme OpenVINO computes as written, and what is refused.
* `integer_probe`: whether a device multiplies 8-bit integers exactly.
* `compiled_program`: one program, compiled and called with torch tensors.
* `program_cache`: programs in OpenVINO's own format, so that ONNX is written once per shape.
"""
