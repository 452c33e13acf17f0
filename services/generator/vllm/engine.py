"""vLLM's AsyncLLM, as much of it as we use. The only file that imports vLLM.

Importing it takes seconds and reads the environment, so `model.py` sets that first and imports this file in a thread.

    this process      AsyncLLM: checks requests, keeps their streams
    EngineCore        a child process: schedules, batches
    workers           its children: compute
    Mourner           ends these when this process is killed

vLLM would turn tokens into text itself; `text.py` does it instead, since a resumed answer must read like the
undisturbed one. The children are spawned, never forked: gRPC doesn't survive a fork.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final

import psutil
from tokenizers import Tokenizer
from vllm import SamplingParams
from vllm.config import StructuredOutputsConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMClientError
from vllm.inputs.engine import tokens_input
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError
from vllm.v1.metrics.loggers import StatLoggerBase

from services.generator.types import ModelLoad, Sampling
from services.generator.vllm.answering import Step
from services.generator.vllm.mourner import Mourner
from services.generator.vllm.options import Options
from weft.errors import Reason, WeftError, error

LOOK_INTERVAL_S: Final = 0.1
SHUTDOWN_S: Final = 2.0
MAX_JOINED: Final = 8  # tokens: a step may come to take much longer before the answer ends
_NEWEST: Final = 0.1  # the newest step's part in the average


class Engine:
    """One engine and its processes. To be made in a thread: it blocks until the model is loaded."""

    def __init__(self, options: Options) -> None:
        self._stats = _Stats()
        wanted: dict[str, Any] = {
            "max_model_len": options.max_model_len,
            "max_num_seqs": options.max_num_seqs,
            "kv_cache_memory_bytes": options.kv_cache_mib and options.kv_cache_mib << 20,
            "gpu_memory_utilization": options.gpu_memory,
        }
        arguments = AsyncEngineArgs(
            model=str(options.path),
            dtype=options.dtype,
            enforce_eager=options.eager,
            scheduling_policy="priority",
            disable_log_stats=True,  # but for those that we read ourselves
            # llguidance works a schema out as it goes; xgrammar before, and may take minutes for a hostile one.
            # White space between the signs of JSON is not the model's choice: some go on with it for ever.
            structured_outputs_config=StructuredOutputsConfig(backend="guidance", disable_any_whitespace=True),
            **{name: value for name, value in wanted.items() if value is not None},
        )
        self._engine = AsyncLLM.from_engine_args(arguments, stat_loggers=[self._stats.logger])
        cores = [psutil.Process(core.pid) for core in self._engine.engine_core.resources.engine_manager.processes]
        workers = [worker for core in cores for worker in core.children(recursive=True)]
        self._mourner = Mourner(process.pid for process in (*cores, *workers))
        config = self._engine.model_config
        self.context_tokens: int = config.max_model_len
        self.vocabulary: int = config.get_vocab_size()
        self.tokenizer: Any = self._engine.get_tokenizer()
        """The one of transformers."""
        self.decoder: Any = getattr(self.tokenizer, "_tokenizer", None)
        """What is inside of it."""
        if not isinstance(self.decoder, Tokenizer):
            self.close()
            raise ValueError(f"{options.path} has no tokenizer.json, and no other tokenizer can be used here")
        self._defaults: Mapping[str, Any] = config.get_diff_sampling_param()

    @property
    def dead(self) -> bool:
        """Whether it can't be asked any more."""
        return bool(self._engine.errored)

    async def died(self) -> None:
        """Wait until it is dead; those who wait for answers are told."""
        while not self.dead:  # noqa: ASYNC110 - vLLM learns it in a thread and tells nobody
            await asyncio.sleep(LOOK_INTERVAL_S)
        self._engine.output_processor.propagate_error(EngineDeadError())

    async def generate(
        self,
        request_id: str,
        token_ids: Sequence[int],
        sampling: Sampling,
        *,
        max_tokens: int,
        schema: Mapping[str, Any] | None,
        priority: int,
        step_interval_s: float,
    ) -> AsyncGenerator[Step, None]:
        """Go on from the tokens. Closing the generator takes the request out of the engine.

        Steps are joined to about `step_interval_s`, by their number: vLLM tells what it computed only every so many
        tokens (https://docs.vllm.ai, `stream_interval`), and that spares this process the most of each token's cost.

        Raises:
            WeftError: INVALID_FIELD and SCHEMA_INVALID for what vLLM refuses, MODEL_UNAVAILABLE when the engine failed
                or is dead.
        """
        try:
            params = self._params(sampling, max_tokens, schema, self._stats.steps_in(step_interval_s))
            stream = self._engine.generate(tokens_input(list(token_ids)), params, request_id, priority=-priority)
            async with aclosing(stream) as outputs:
                async for output in outputs:
                    (one,) = output.outputs
                    if one.finish_reason not in (None, "stop", "length"):
                        raise _failed(f"it gave the answer up ({one.finish_reason})")
                    yield Step(one.token_ids, one.finish_reason or "", output.num_cached_tokens or 0)
        except EngineDeadError:
            raise _failed("its process has died") from None
        except EngineGenerateError as exc:
            raise _failed(f"it failed: {exc.__cause__ or exc}") from exc
        except (VLLMClientError, ValueError, TypeError) as exc:
            reason, field = Reason.INVALID_FIELD, "sampling"
            if schema is not None:
                reason, field = Reason.SCHEMA_INVALID, "response_format.json_schema"
            raise error(reason, f"{field}: vLLM refuses it: {_brief(exc)}", field=field) from exc

    def _params(
        self, sampling: Sampling, max_tokens: int, schema: Mapping[str, Any] | None, joined: int
    ) -> SamplingParams:
        given = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "seed": sampling.seed,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
        }
        asked = {name: value for name, value in given.items() if value is not None}
        known = {"temperature": 0.0, **self._defaults, **asked, "max_tokens": max_tokens}
        if schema is not None:
            known["structured_outputs"] = StructuredOutputsParams(json=dict(schema))
        kind = RequestOutputKind.DELTA
        return SamplingParams(output_kind=kind, stream_interval=joined, detokenize=False, skip_clone=True, **known)

    def load(self) -> ModelLoad:
        """As the scheduler told last; it tells nothing while it has nothing to do."""
        if not self._engine.output_processor.get_num_unfinished_requests():
            return ModelLoad(kv_cache=0.0)
        told = self._stats.last
        if told is None:
            return ModelLoad(waiting=self._engine.output_processor.get_num_unfinished_requests(), kv_cache=0.0)
        return ModelLoad(
            running=told.num_running_reqs,
            waiting=told.num_waiting_reqs + told.num_skipped_waiting_reqs,
            kv_cache=told.kv_cache_usage,
        )

    def close(self) -> None:
        """End its processes. Blocks for up to SHUTDOWN_S."""
        if (handler := self._engine.output_handler) is not None:  # or it reports the end as a failure
            handler.get_loop().call_soon_threadsafe(handler.cancel)
        self._engine.shutdown(timeout=SHUTDOWN_S)
        self._engine.shutdown = lambda: None  # its destructor calls it again, when there is no interpreter left
        self._mourner.close()  # a worker whose parent was killed may not have heard of it


class _Stats:
    """Keeps what the scheduler told last, and how long a step takes."""

    def __init__(self) -> None:
        self.last: Any = None
        self._step_s = 0.0  # a moving average

    def steps_in(self, interval_s: float) -> int:
        """How many steps are made in that time, by the latest ones: 1 to MAX_JOINED."""
        return max(1, min(MAX_JOINED, int(interval_s / self._step_s))) if self._step_s else 1

    def logger(self, config: Any, engine_index: int = 0) -> StatLoggerBase:
        """What vLLM calls for each engine."""
        stats = self

        class Logger(StatLoggerBase):
            def __init__(self) -> None: ...

            def record(self, scheduler_stats: Any, iteration_stats: Any, *_: Any, **__: Any) -> None:
                if scheduler_stats is not None:
                    stats.last = scheduler_stats
                if iteration_stats is not None and (steps_s := iteration_stats.inter_token_latencies_iter):
                    stats._step_s += (steps_s[0] - stats._step_s) * (_NEWEST if stats._step_s else 1.0)

            def log_engine_initialized(self) -> None: ...

        return Logger()


def _failed(problem: str) -> WeftError:
    return error(Reason.MODEL_UNAVAILABLE, f"the model's engine can't answer: {problem}", backend="vllm")


def _brief(exc: BaseException) -> str:
    return " ".join(str(exc).split())[:300]
