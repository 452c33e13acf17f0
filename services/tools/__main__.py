"""`python -m services.tools` runs one tool service; `… config` prints its settings."""

from mesh.app import run
from services.tools.settings import Settings
from services.tools.wiring import build

if __name__ == "__main__":
    run(Settings, build)
