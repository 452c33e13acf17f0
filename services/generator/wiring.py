"""Puts a generator together: models from their URLs, the domain, the servicer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from mesh import plugins
from mesh.app import Runtime
from mesh.plugins import Url
from mesh.server import Binding
from services.generator import load
from services.generator.accounting import Accounts
from services.generator.admission.admission import Admission
from services.generator.breaker import Guard
from services.generator.caching.cached import Cache
from services.generator.generation import Generator
from services.generator.ports import Model, Surroundings
from services.generator.servicer import GeneratorServicer
from services.generator.settings import MODELS, Settings
from services.generator.templates.library import open_templates
from weft.generator.v1 import generator_pb2, generator_pb2_grpc


@asynccontextmanager
async def build(settings: Settings, runtime: Runtime) -> AsyncIterator[Sequence[Binding]]:
    """Open and start every model, in order; close them in reverse."""
    async with AsyncExitStack() as stack:
        templates = open_templates(settings.generator.templates, settings.generator.template_weights)
        accounts = Accounts(
            runtime.registry, settings.generator.prices, record_content=settings.generator.record_content
        )
        models: dict[str, Model] = {}
        surroundings = Surroundings(
            api_keys={host: key.get_secret_value() for host, key in settings.generator.api_keys.items()},
            fail=runtime.fail,
        )
        admission = Admission(
            settings.generator, settings.generator.models, settings.generator.prices, runtime.registry
        )
        stack.push_async_callback(admission.close)
        guard = Guard(runtime.registry)
        cache = None
        if settings.generator.cache:
            cache = Cache(settings.generator.cache, settings.generator.cache_ttl_s, runtime.registry)
            stack.push_async_callback(cache.close)
        for name, raw in settings.generator.models.items():
            url = Url.parse(raw)
            model: Model = plugins.load(MODELS, url).open(url, surroundings)
            if url.host:  # at another host: an upstream
                model = guard.around(name, model)
            model = admission.around(name, model)
            if cache is not None:
                model = cache.around(model, name, raw)
            model = accounts.around(name, model)
            stack.push_async_callback(model.close)
            await model.start()
            models[name] = model
        load.report(models, runtime.load, runtime.registry, settings.generator.kv_cache_weight)
        yield [
            Binding(
                generator_pb2.DESCRIPTOR.services_by_name["GeneratorService"],
                generator_pb2_grpc.add_GeneratorServiceServicer_to_server,
                GeneratorServicer(Generator(models, templates)),
            )
        ]
