"""vLLM's own servers as a process, of OpenAI's API or of gRPC: started, watched, killed, started on the same port."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

START_S = 240.0
STOP_S = 20.0
_OPENAI = "vllm.entrypoints.openai.api_server"
_GRPC = "vllm.entrypoints.launchers.grpc_server"


class VllmServer:
    """Serves a directory's model under the name `tiny`, in float32, greedily where nothing else is asked for."""

    def __init__(self, model: Path, environment: dict[str, str], log: Path, *, grpc: bool = False) -> None:
        self.model, self.environment, self.log, self.grpc = model, environment, log, grpc
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, more: str = "", model: str = "tiny") -> str:
        """Its model's URL."""
        if self.grpc:
            return f"vllm+grpc://127.0.0.1:{self.port}"
        return f"openai://127.0.0.1:{self.port}/v1?model={model}{more}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        module = _GRPC if self.grpc else _OPENAI
        command = [sys.executable, "-m", module, "--model", str(self.model), "--served-model-name", "tiny"]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--dtype", "float32", "--enforce-eager"]
        command += ["--override-generation-config", '{"temperature": 0}']
        if not self.grpc:  # white space between the signs of JSON would be the tiny model's choice for ever
            outputs = '{"backend": "guidance", "disable_any_whitespace": true}'
            command += ["--enable-prompt-tokens-details", "--structured-outputs-config", outputs]
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                command, env=self.environment, stdout=out, stderr=out, start_new_session=True
            )
        try:
            self._wait(self._process)
        except BaseException:
            self.kill()
            raise

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        give_up_s = time.monotonic() + START_S
        while time.monotonic() < give_up_s and process.poll() is None:
            with contextlib.suppress(OSError):
                if self.grpc:  # it listens once its engine is there
                    socket.create_connection(("127.0.0.1", self.port), 5).close()
                else:
                    self._get("/health")
                return
            time.sleep(0.2)
        said = self.log.read_text(errors="replace")[-3_000:]
        raise AssertionError(f"vLLM's server did not start:\n{said}")

    def metric(self, name: str) -> float:
        """One of its metrics, over all labels."""
        lines = self._get("/metrics").splitlines()
        values = [float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name}{{", f"{name} "))]
        assert values, f"the server has no metric {name}"
        return sum(values)

    def kill(self) -> None:
        """End it and its engine with -9."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it as an operator would."""
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as response:
            text: str = response.read().decode()
            return text
