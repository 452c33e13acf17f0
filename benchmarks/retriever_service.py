"""The retriever as it runs in a mesh, with the embedders of ``benchmarks.embedders`` beside its own.

WEFT_RETRIEVER__EMBEDDER=synthetic:?rows=100000 python -m benchmarks.retriever_service
"""

from pathlib import Path

from mesh.app import run
from services.retriever import embedders
from services.retriever.settings import Settings
from services.retriever.wiring import build

if __name__ == "__main__":
    embedders.__path__.append(str(Path(__file__).with_name("embedders")))
    run(Settings, build)
