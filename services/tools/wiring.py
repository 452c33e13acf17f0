"""Puts the tool service together: the chosen tools, the toolbox, the servicer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from importlib import import_module

from mesh.app import Runtime
from mesh.server import Binding
from services.tools.documents import RetrieverDocuments
from services.tools.ports import DocumentFinder
from services.tools.servicer import ToolsServicer
from services.tools.settings import BUILTIN, Settings
from services.tools.toolbox import Tool, Toolbox
from weft.tools.v1 import tools_pb2, tools_pb2_grpc


@asynccontextmanager
async def build(settings: Settings, runtime: Runtime) -> AsyncIterator[Sequence[Binding]]:
    """The servicer over the chosen tools."""
    documents = RetrieverDocuments(runtime.channel("retriever"))
    servicer = ToolsServicer(Toolbox(open_builtin(settings.tools.names, documents)))
    descriptor = tools_pb2.DESCRIPTOR.services_by_name["ToolsService"]
    yield [Binding(descriptor, tools_pb2_grpc.add_ToolsServiceServicer_to_server, servicer)]


def open_builtin(names: Iterable[str], documents: DocumentFinder) -> list[Tool]:
    """The built-in tools called ``names``; only their files are imported."""
    modules = [import_module(f"{BUILTIN}.{name}") for name in names]
    return [Tool(module.SPEC, module.open(documents)) for module in modules]
