"""``python -m mesh.controlplane``: registry, routing, status and discovery in one process."""

from mesh.app import run
from mesh.controlplane.settings import Settings
from mesh.controlplane.wiring import build

if __name__ == "__main__":
    run(Settings, build, register=False)
