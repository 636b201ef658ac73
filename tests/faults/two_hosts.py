"""One of two hosts, in network namespaces, dies with all its processes and comes back. Needs root, to make them."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path

from stage import CONFIG, EVERY, TESTS, Stage, expect, play

HOSTS = {"mmattn_a": "10.99.77.1", "mmattn_b": "10.99.77.2"}
FIRST, SECOND = HOSTS
DEATH, RETURN = EVERY + 2, 3 * EVERY + 2  # the iterations at which it dies, and at which the other has waited for it
# each iteration is noted with the number of processes
SCRIPT = """
import os, runpy, sys, time
sys.path.insert(0, {root!r})
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class Note(Hook):
    def before_train_iter(self, runner, *args, **kwargs):
        if runner.rank == 0:
            print(runner.iter, runner.world_size, file=open("notes.txt", "a"))
        if runner.iter == {death} and "DIES" in os.environ or runner.iter == {back} and runner.world_size == 1:
            time.sleep(3600)

runpy.run_path({tool!r}, run_name="__main__")
"""


def fault(stage: Stage) -> str:
    """A host that dies."""
    if os.geteuid() != 0:
        sys.exit("needs root, to make network namespaces")
    tool = str(TESTS.parent / "tools" / "train.py")
    script = SCRIPT.format(root=str(TESTS.parent), tool=tool, death=DEATH, back=RETURN)
    (stage.folder / "train.py").write_text(script)
    (stage.folder / "note.py").write_text("custom_hooks = [dict(type='Note')]")
    with _two_hosts():
        first = _torchrun(stage, FIRST)
        second = _torchrun(stage, SECOND, DIES="1")
        _until(stage, (first, second), (DEATH, 2))
        _kill_all(SECOND)
        second.wait()
        _until(stage, (first,), (RETURN, 1))
        for agent in (_torchrun(stage, SECOND), first):
            expect(agent.wait() == 0, f"an agent ended with {agent.returncode}:\n{_said(stage)}")
    notes = _notes(stage)
    runs = [list(run) for _, run in groupby(enumerate(notes), key=lambda note: note[1][0] - note[0])]
    starts = [(run[0][1][0], {processes for _, (_, processes) in run}) for run in runs]
    expect(starts == [(0, {2}), (EVERY, {1}), (3 * EVERY, {2})], f"starts, and processes after each: {starts}")
    expect({step for step, _ in notes} == set(range(stage.iters)), "an iteration is missing")
    expect(stage.saved("hosts")[-1] == stage.iters, f"saved: {stage.saved('hosts')}")
    return (
        "the other one went on alone from the last checkpoint, both together when it was back, and the training ended "
        f"after its {stage.iters} iterations. Lost: the {len(notes) - stage.iters} since the checkpoints, done again"
    )


@contextmanager
def _two_hosts() -> Iterator[None]:
    """Two network namespaces with a cable between them."""
    _remove()
    try:
        for name in HOSTS:
            _ip("netns", "add", name)
        _ip("link", "add", "eth0", "netns", FIRST, "type", "veth", "peer", "name", "eth0", "netns", SECOND)
        for name, address in HOSTS.items():
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", name, "link", "set", device, "up")
        yield
    finally:
        _remove()


def _remove() -> None:
    for name in HOSTS:
        _kill_all(name)
        subprocess.run(["ip", "netns", "delete", name], stderr=subprocess.DEVNULL, check=False)


def _ip(*arguments: str) -> None:
    try:
        subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
    except FileNotFoundError:
        sys.exit("needs ip, of iproute2")
    except subprocess.CalledProcessError as error:
        sys.exit(f"needs network namespaces: ip {' '.join(arguments)}: {error.stderr.strip()}")


def _kill_all(host: str) -> None:
    """The processes of a host, all at once, as when its power fails."""
    listed = subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True, check=False).stdout
    for process in listed.split():
        with suppress(ProcessLookupError):
            os.kill(int(process), 9)


def _torchrun(stage: Stage, host: str, **env: str) -> subprocess.Popen:
    """The agent of a host; the first one holds the rendezvous."""
    rendezvous = ["--rdzv_backend=c10d", f"--rdzv_endpoint={HOSTS[FIRST]}:29400", "--rdzv_id=mmattn"]
    rendezvous += [f"--rdzv_conf=is_host={int(host == FIRST)},last_call_timeout=3", f"--local_addr={HOSTS[host]}"]
    torchrun = ["-m", "torch.distributed.run", "--nnodes=1:2", "--nproc_per_node=1", "--max_restarts=3", *rendezvous]
    settings = [f"train_cfg.max_iters={stage.iters}", f"default_hooks.checkpoint.interval={EVERY}"]
    settings += ["randomness.seed=0", "train_dataloader.num_workers=0"]
    training = ["train.py", str(CONFIG), "--launcher", "pytorch", "--resume", "--work-dir", "hosts"]
    training += ["--base", *stage.base, str(stage.folder / "note.py"), "--cfg-options", *settings]
    # else a host that is new finds nothing where those that met before keep what they know to themselves
    env["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    env |= {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "GLOO_SOCKET_IFNAME": "eth0"}
    with open(stage.folder / f"{host}.log", "a") as log:
        return subprocess.Popen(
            ["ip", "netns", "exec", host, sys.executable, *torchrun, *training],
            cwd=stage.folder,
            env=os.environ | env,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _until(stage: Stage, agents: tuple[subprocess.Popen, ...], note: tuple[int, int]) -> None:
    """Wait for an iteration with so many processes."""
    while note not in _notes(stage):
        for agent in agents:
            expect(agent.poll() is None, f"an agent ended:\n{_said(stage)}")
        time.sleep(0.05)


def _notes(stage: Stage) -> list[tuple[int, int]]:
    """Iteration and number of processes, as they came."""
    path = Path(stage.folder, "notes.txt")
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    return [tuple(map(int, line.split())) for line in lines if line.endswith("\n")]


def _said(stage: Stage) -> str:
    return "\n".join(f"{host}:\n{(stage.folder / f'{host}.log').read_text()[-3000:]}" for host in HOSTS)


if __name__ == "__main__":
    play(fault)
