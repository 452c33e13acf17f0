"""GeneratorService: protobuf in, domain, protobuf out."""

from __future__ import annotations

from contextlib import aclosing

from grpc import aio
from opentelemetry import trace
from opentelemetry.trace import Span

from mesh import context as call_context
from services.generator import convert
from services.generator.generation import Generator
from services.generator.types import Event, Finished, Started
from weft import names
from weft.generator.v1 import generator_pb2, generator_pb2_grpc


class GeneratorServicer(generator_pb2_grpc.GeneratorServiceServicer):
    """Serves one Generator."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator

    async def Generate(self, request: generator_pb2.GenerateRequest, context: aio.ServicerContext) -> None:
        """Stream one answer."""
        wanted = convert.request(request, call_context.current())
        span = trace.get_current_span()
        span.set_attribute(names.GENAI_OPERATION, "chat")
        if wanted.model:
            span.set_attribute(names.GENAI_REQUEST_MODEL, wanted.model)
        sequence = 0
        async with aclosing(self._generator.generate(wanted)) as events:
            async for event in events:
                _record(span, event)
                await context.write(convert.response(event, sequence, wanted.include_token_ids))
                sequence += 1

    async def ListModels(
        self, request: generator_pb2.ListModelsRequest, context: aio.ServicerContext
    ) -> generator_pb2.ListModelsResponse:
        """List the models in fallback order."""
        return generator_pb2.ListModelsResponse(models=map(convert.model, self._generator.models()))


def _record(span: Span, event: Event) -> None:
    """Put what is known of the answer on the call's span; accounting.py adds what it took."""
    if isinstance(event, Started):
        span.set_attribute(names.GENAI_PROVIDER, event.capabilities.backend)
        span.set_attribute(names.GENAI_RESPONSE_MODEL, event.model)
        if event.template:
            span.set_attribute(names.GENAI_PROMPT_NAME, event.template)
            span.set_attribute(names.GENAI_PROMPT_VERSION, event.template_version)
    elif isinstance(event, Finished):
        span.set_attribute(names.GENAI_FINISH_REASONS, [event.end.reason.value])
        if event.end.cached:
            span.set_attribute(names.CACHED, True)
        if event.degraded:
            span.set_attribute(names.DEGRADED, [item.stage for item in event.degraded])
