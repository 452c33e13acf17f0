"""Settings of the control plane."""

from __future__ import annotations

from pydantic import BaseModel, Field

from mesh.settings import ServiceSettings


class ControlPlaneOptions(BaseModel):
    """What only the control plane reads."""

    lease_ttl_s: float = Field(
        5.0, ge=0.5, le=300, description="seconds that an instance of the built-in registry may go without renewal"
    )


class Settings(ServiceSettings):
    """The shared settings and the control plane's own. ``WEFT_STORE`` holds the built-in registry."""

    controlplane: ControlPlaneOptions = ControlPlaneOptions()

    @property
    def listen(self) -> tuple[str, int]:
        """Where everybody looks for it: the first of ``WEFT_MESH``. ``WEFT_PORT``, with ``WEFT_HOST``,
        overrides that where the address that others dial isn't one of this machine's."""
        if self.port:
            return self.host, self.port
        host, _, port = self.mesh[0].rpartition(":")
        return host.strip("[]"), int(port)
