"""`vllm:///path?…`: vLLM's engine inside of the generator's process.

    dtype          of weights and activations: auto (default, the model's own), float32, bfloat16, float16
    max_model_len  tokens of prompt and answer together. Default: the model's
    max_num_seqs   answers being made at once; further ones wait in the engine. Default: vLLM's
    kv_cache_mib   memory for the KV cache. Default: what vLLM finds
    gpu_memory     share of the GPU's memory for the engine, above 0 to 1. Default: vLLM's
    eager          true does without compiling the model: starts sooner, runs slower. Default false

The path is a directory as transformers saves it; nothing is fetched. Sampling that a request leaves open is that of the
model's generation_config.json, and greedy where this says nothing.

Answers can be resumed by token ids at any replica of the same model. Greedy and in float32 the whole then equals the
undisturbed answer; what other types don't promise is told in docs/generator.md. Output can be held to a JSON Schema,
and tools are asked for that way (`services/generator/vllm/calls.py`); such answers can't be resumed.
"""

from __future__ import annotations

import importlib.util

from mesh.plugins import Url
from services.generator.ports import ALONE, Model, Surroundings
from services.generator.vllm import options


def open(url: Url, surroundings: Surroundings = ALONE) -> Model:
    """Open the model that the URL describes.

    Raises:
        WeftError: INVALID_FIELD for a URL that can't be used, or where vLLM is not installed.
    """
    if importlib.util.find_spec("vllm") is None:
        raise options.invalid(
            url,
            "vLLM is not installed here. With a GPU: pip install 'weft[vllm]'; on a CPU: see docs/generator.md. "
            "Or attach a server that runs it: openai://host:port/v1?model=NAME",
        )
    checked = options.read(url)
    from services.generator.vllm.model import Vllm  # brings libraries that vLLM brings

    return Vllm(url, checked, surroundings)
