"""Every name that Weft puts on the wire: metadata keys, span and metric attributes.

One file, so that a reader of a trace can find who writes an attribute, and so that SDK and services
can't drift apart. RPC and GenAI names follow OpenTelemetry's current semantic conventions; gRPC's
metrics follow gRFC A66; ours begin with ``weft.``. Questions and documents are never label values.
"""

from __future__ import annotations

from typing import Final

# -- call metadata: travels from each incoming call to each outgoing one ------------------------------
METADATA_TENANT: Final = "weft-tenant"  # whose data; 1 to 63 of a-z 0-9 -; "default" when absent
METADATA_REQUEST_ID: Final = "weft-request-id"  # the caller's id of the whole request
METADATA_BUCKET: Final = "weft-bucket"  # 0 to 99, hash of the session: keeps a session on its version
METADATA_ROUTE_PREFIX: Final = "weft-route-"  # header routes that travel along the whole chain
METADATA_TRACEPARENT: Final = "traceparent"  # W3C trace context
METADATA_PREVIOUS_ATTEMPTS: Final = "grpc-previous-rpc-attempts"  # gRPC's own, on what it sends again (gRFC A6)
METADATA_ENVOY_ATTEMPT: Final = "x-envoy-attempt-count"  # Envoy's: 1, and more on what it sends again
METADATA_PUSHBACK: Final = "grpc-retry-pushback-ms"  # "-1" in trailers: gRPC, don't retry this

ERROR_DOMAIN: Final = "weft.dev"  # google.rpc.ErrorInfo.domain

# -- RPC spans and metrics ----------------------------------------------------------------------------
RPC_SYSTEM: Final = "rpc.system.name"
RPC_METHOD: Final = "rpc.method"  # package.Service/Method
RPC_STATUS: Final = "rpc.response.status_code"
ERROR_TYPE: Final = "error.type"

# -- GenAI spans --------------------------------------------------------------------------------------
GENAI_OPERATION: Final = "gen_ai.operation.name"
GENAI_PROVIDER: Final = "gen_ai.provider.name"
GENAI_REQUEST_MODEL: Final = "gen_ai.request.model"
GENAI_RESPONSE_MODEL: Final = "gen_ai.response.model"
GENAI_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
GENAI_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
GENAI_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
GENAI_CACHED_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
GENAI_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"  # seconds
GENAI_SYSTEM_INSTRUCTIONS: Final = "gen_ai.system_instructions"  # these three hold words: by opt-in only
GENAI_INPUT_MESSAGES: Final = "gen_ai.input.messages"
GENAI_OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
GENAI_PROMPT_NAME: Final = "gen_ai.prompt.name"  # of the template
GENAI_PROMPT_VERSION: Final = "gen_ai.prompt.version"
GENAI_TOOL_NAME: Final = "gen_ai.tool.name"
GENAI_TOOL_CALL_ID: Final = "gen_ai.tool.call.id"
METRIC_FIRST_TOKEN: Final = "gen_ai_server_time_to_first_token_seconds"
METRIC_EACH_TOKEN: Final = "gen_ai_server_time_per_output_token_seconds"

# -- ours ---------------------------------------------------------------------------------------------
TENANT: Final = "weft.tenant"
REQUEST_ID: Final = "weft.request_id"
SESSION: Final = "weft.session"
TURN: Final = "weft.turn"
COLLECTION: Final = "weft.collection"
EPOCH: Final = "weft.epoch"  # "log_id:sequence"
HITS: Final = "weft.hits"
DEGRADED: Final = "weft.degraded"  # stages that were skipped
REPLAYED: Final = "weft.replayed"
CACHED: Final = "weft.cached"
ERROR_REASON: Final = "weft.error.reason"
JOB: Final = "weft.job"  # "jobs/{id}"
JOB_ATTEMPT: Final = "weft.job.attempt"  # from 1
QUEUE_AHEAD: Final = "weft.queue.ahead"  # requests that waited when this one came; only where it had to wait
QUEUE_WAIT_MS: Final = "weft.queue.wait_ms"  # until its turn
COST_MICROS: Final = "weft.cost_micros"  # millionths of
CURRENCY: Final = "weft.currency"  # ISO 4217
METRIC_ANSWERS: Final = "weft_generator_answers"  # by tenant, model and outcome
METRIC_TOKENS: Final = "weft_generator_tokens"  # by tenant, model and type
METRIC_COST: Final = "weft_generator_cost"  # by tenant, model and currency
METRIC_PASSAGES: Final = "weft_retriever_passages"  # that a replica holds
METRIC_SEGMENTS: Final = "weft_retriever_segments"  # that they lie in
METRIC_SNAPSHOT_AGE: Final = "weft_retriever_snapshot_age_seconds"  # since the last one was written or found up to date
METRIC_SNAPSHOT_FAILURES: Final = "weft_retriever_snapshot_failures"  # snapshots that couldn't be written
METRIC_SNAPSHOTS_DAMAGED: Final = "weft_retriever_snapshots_damaged"  # that a starting replica could not use
METRIC_JOBS_WAITING: Final = "weft_jobs_waiting"  # the backlog, by kind
METRIC_JOBS_RUNNING: Final = "weft_jobs_running"  # by kind
METRIC_CIRCUIT: Final = "weft_generator_circuit"  # by model: 0 closed, 1 half-open, 2 open
METRIC_CACHE_REQUESTS: Final = "weft_generator_cache_requests"  # by model and result: hit, joined, miss
METRIC_CACHE_FAILURES: Final = "weft_generator_cache_failures"  # of the store behind it
METRIC_RUNNING: Final = "weft_generator_running"  # answers being made, by model
METRIC_WAITING: Final = "weft_generator_waiting"  # for their turn, anywhere
METRIC_KV_CACHE: Final = "weft_generator_kv_cache_ratio"  # used
METRIC_GPU_MEMORY: Final = "weft_generator_gpu_memory_ratio"  # used
METRIC_QUEUE_REQUESTS: Final = "weft_generator_queue_requests"  # that wait, by model
METRIC_QUEUE_TOKENS: Final = "weft_generator_queue_tokens"  # they stand for
METRIC_QUEUE_WAIT: Final = "weft_generator_queue_wait_seconds"  # of those that had to
METRIC_REFUSALS: Final = "weft_generator_refusals"  # by model and why
METRIC_LIMITS_UNSHARED: Final = "weft_generator_limits_unshared"  # reservations while the limits' storage was away
