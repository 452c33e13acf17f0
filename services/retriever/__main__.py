"""``python -m services.retriever``: one retriever process of a mesh."""

from mesh.app import run
from services.retriever.settings import Settings
from services.retriever.wiring import build

if __name__ == "__main__":
    run(Settings, build)
