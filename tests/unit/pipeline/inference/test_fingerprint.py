"""The settings of a model that identify a run."""

from typing import Any

from pipeline.config.endpoints import Endpoint
from pipeline.inference.fingerprint import output_affecting_args


def test_an_engine_argument_is_the_same_with_hyphens() -> None:
    def kept(**vllm: Any) -> dict[str, Any]:
        names = {name.replace("_", "-"): value for name, value in vllm.items()}
        found = [output_affecting_args(Endpoint(model="m", serve="vllm", vllm=v)) for v in (vllm, names)]
        assert found[0] == found[1]
        return found[0]

    assert kept(max_num_seqs=8, gpu_memory_utilization=0.8) == {}
    assert kept(quantization="fp8", max_model_len=4096) == {"quantization": "fp8", "max_model_len": 4096}
