"""`python -m services.orchestrator` runs one orchestrator; `… config` prints its settings."""

from mesh.app import run
from services.orchestrator.settings import Settings
from services.orchestrator.wiring import build

if __name__ == "__main__":
    run(Settings, build)
