"""A management controller for tests: pyghmi's RMCP+ server, which knows DCMI's Get Power Reading besides.

`python -m tests.bmc PORT FILE`: FILE says in JSON what it answers: watts, state (0x40: activated) and
code (0: success).
"""

import json
import struct
import sys
from pathlib import Path
from typing import Any

from pyghmi.ipmi.bmc import Bmc

GROUP, GET_POWER_READING, DCMI = 0x2C, 0x02, 0xDC


class Controller(Bmc):
    """Answers what its file says."""

    def __init__(self, port: int, path: Path) -> None:
        super().__init__({"admin": "correct-horse"}, port=port, address="127.0.0.1")
        self._path = path

    def handle_raw_request(self, request: dict[str, Any], session: Any) -> None:
        if (request["netfn"], request["command"]) != (GROUP, GET_POWER_READING):
            super().handle_raw_request(request, session)
            return
        told = json.loads(self._path.read_text())
        if told["code"]:
            session.send_ipmi_response(code=told["code"])
            return
        # DCMI 1.5, table 6-16: now, least, most and mean, W; time stamp; ms of the statistics; state.
        watts = told["watts"]
        answer = struct.pack("<BHHHHIIB", DCMI, watts, 1, 9_000, watts, 1_790_000_000, 1_000, told["state"])
        session.send_ipmi_response(data=list(answer))


if __name__ == "__main__":
    controller = Controller(int(sys.argv[1]), Path(sys.argv[2]))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    controller.listen()
