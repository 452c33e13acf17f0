"""`python -m services.generator` runs one generator; `… config` prints its settings."""

from mesh.app import run
from services.generator.settings import Settings
from services.generator.wiring import build

if __name__ == "__main__":
    run(Settings, build)
