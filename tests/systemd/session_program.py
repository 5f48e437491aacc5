"""A program for the tests of the service: one session, a kernel on its chip and a Python task in a sub-worker.

Prints the numbers that the kernel doubled, the first one replaced by the uid that the task ran as. Then does what each
line on its stdin says: "hold" has a task say by one fifo that it runs, and wait for a word on another before it ends;
any other line closes the session.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

import simpler
from simpler import ChipCallable, RemoteTensorRef, RemoteWorkerSpec, TaskArgs, TensorArgType

FIFOS = Path("/var/lib/simplerd")
DOUBLE = """
#include "simpler_kernel.h"
int double_all(const slr_tensor *t, uint32_t n_tensors, const uint64_t *s, uint32_t n_scalars)
{
    (void)n_tensors, (void)s, (void)n_scalars;
    for (int64_t i = 0; i < t[0].shape[0]; i++)
        ((int64_t *)t[0].data)[i] *= 2;
    return 0;
}
"""


def sign(args: Any) -> None:
    args.tensor(0)[0] = os.getuid()
    print("signed")


def hold(args: Any) -> None:
    kept = [Path("/tmp/kept"), Path("/dev/shm/simpler-kept")]
    for file in kept:
        file.write_text("kept")
    with (FIFOS / "held").open("w") as held:
        held.write("held")
    args.tensor(0)[3] = int((FIFOS / "go").read_text())
    for file in kept:
        file.unlink()  # it is still there
    print("let go")


def in_the_session(orch: simpler.Orchestrator, args: Any, config: object = None) -> None:
    print("in the session", flush=True)
    orch.submit_next_level(args.scalar(0), TaskArgs().add_tensor(args.tensor(0), TensorArgType.INOUT), worker=0)
    orch.submit_sub(args.scalar(1), TaskArgs().add_tensor(args.tensor(0), TensorArgType.INOUT))


def main() -> None:
    parent = simpler.Worker(level=4)
    spec = RemoteWorkerSpec(os.environ["SIMPLERD_ENDPOINT"], device_ids=[0], num_sub_workers=1)
    session = parent.add_remote_worker(spec)
    kernel = parent.register(ChipCallable.from_c_source(DOUBLE, "double_all", ["inout"]))
    tasks = {"sign": parent.register(sign), "hold": parent.register(hold)}
    function = parent.register(in_the_session)
    with parent:
        numbers = np.arange(4)
        buffer = parent.remote_malloc(worker=session, nbytes=numbers.nbytes)
        parent.remote_copy_to(buffer, numbers)

        def double_and(task: str) -> None:
            def graph(orch: simpler.Orchestrator, args: object, config: object) -> simpler.TaskRef:
                tensor = RemoteTensorRef(buffer, shape=(4,), dtype="int64")
                wanted = TaskArgs().add_tensor(tensor, TensorArgType.INOUT)
                wanted.add_scalar(kernel.hashid).add_scalar(tasks[task].hashid)
                return orch.submit_next_level(function, wanted, worker=session)

            parent.run(graph)
            parent.remote_copy_from(buffer, numbers)
            print(*numbers, flush=True)

        double_and("sign")
        while sys.stdin.readline() == "hold\n":
            double_and("hold")
        parent.remote_free(buffer)
    print("closed", flush=True)


if __name__ == "__main__":
    main()
