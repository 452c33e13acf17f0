"""Runs the collector."""

from mesh.app import run
from mesh.telemetry.collector.settings import Settings
from mesh.telemetry.collector.wiring import build

if __name__ == "__main__":
    run(Settings, build, register=False)
