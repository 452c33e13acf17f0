"""Waits for a mesh: ``python -m weft_cli.ready HOST:PORT SECONDS [INSTANCE_ID...]``.

A process of its own, because it speaks gRPC and the supervisor, which forks, must not. It ends with 0 and
prints the status as JSON once the control plane serves a snapshot and every instance is SERVING, with 1 and the
names of those that are missing when the time is up.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any, Final

_POLL_S: Final = 0.1


async def wait(mesh: str, seconds: float, wanted: set[str]) -> int:
    """Poll until everything wanted is there."""
    from weft.channel import Dial, open_address
    from weft.errors import WeftError
    from weft_cli.commands.status import as_shape
    from weft_cli.connecting import ControlPlane

    until_s, problem, shown = time.monotonic() + seconds, "", dict[str, Any]()
    async with open_address((mesh,), Dial(mesh=(mesh,))) as channel:
        control = ControlPlane((mesh,), channel)
        while time.monotonic() < until_s:
            try:
                shown = as_shape(mesh, await control.status())
            except WeftError as exc:
                problem = exc.message
            else:
                missing = wanted - {i["id"] for i in shown["instances"] if i["health"] == "serving"}
                if not missing and (shown["snapshot_version"] or not wanted):
                    print(json.dumps(shown), flush=True)
                    return 0
                problem = (
                    f"these do not serve: {', '.join(sorted(missing))}" if missing else "the control plane warms up"
                )
            await asyncio.sleep(_POLL_S)
    print(f"after {seconds:g} s {problem}", file=sys.stderr)
    return 1


def main() -> None:
    """Read the arguments and wait."""
    from weft_cli.settings import quiet_grpc

    quiet_grpc()
    mesh, seconds, *wanted = sys.argv[1:]
    raise SystemExit(asyncio.run(wait(mesh, float(seconds), set(wanted))))


if __name__ == "__main__":
    main()
