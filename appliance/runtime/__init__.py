"""Inference runtimes. The only importer of onnxruntime, tensorrt, tensorrt_rtx and pycuda."""
