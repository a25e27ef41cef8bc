# SPDX-License-Identifier: Apache-2.0
"""Programs in a container of their own, as the guide has it: the folder of the socket is mounted, and not the key."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.agents import API, Running, rules_of

from dpop.agent import Agent, listen

GROUP = 60_010
MEMBER, STRANGER = 60_002, 60_003

# A root, processes and a network of its own. The root is this one without the agent's folder, which holds the key; the
# folder of the socket is mounted where no program outside would look for it.
CONTAINER = """
set -e
root=$1 folder=$2
shift 2
mount --rbind / "$root"
mount -t tmpfs none "$root/run"
mkdir "$root/run/dpop"
mount --bind "$folder/run" "$root/run/dpop"
mount -t tmpfs none "$root$folder"
mount -t proc none "$root/proc"
exec chroot "$@"
"""
NAMESPACES = ["unshare", "--mount", "--pid", "--fork", "--net", "--ipc", "--uts"]

PROGRAM = f"""
import os, sys
sys.path[:0] = {sys.path!r}
import dpop, dpop.proof
import dpop.agent._key  # now, because another user may not read this Python
from dpop.errors import DPoPError
user, group = map(int, sys.argv[3:])
os.setgroups([])
os.setgid(group)
os.setuid(user)
try:
    key = dpop.load_key(sys.argv[1])
    dpop.create_proof(key, "GET", "{API}/me")
    print(key.thumbprint, os.getpid(), os.path.exists(sys.argv[2]))
except DPoPError as error:
    print(type(error).__name__)
"""


@pytest.fixture
def running(folder: Path) -> Iterator[Running]:
    """An agent of this user, whose key the members of a group may use, too."""
    audited: list[object] = []
    agent = Agent([rules_of(folder, uids=[os.geteuid()], gids=[GROUP])], audit=audited.append)
    path = folder / "run" / "agent.sock"
    with listen(path, group=GROUP) as listener:
        thread = threading.Thread(target=agent.serve, args=(listener,))
        thread.start()
        try:
            yield Running(agent, path, audited)  # type: ignore[arg-type]
        finally:
            agent.stop()
            thread.join(30)
            assert not thread.is_alive()


def in_container(running: Running, root: Path, uri: str, user: int, group: int) -> list[str]:
    """What the program says in a container, as a user with a group."""
    folder = running.path.parent.parent
    command = ["sh", "-c", CONTAINER, "sh", str(root), str(folder), str(root)]
    env = {**os.environ, "DPOP_AGENT_SOCK": "/run/dpop/agent.sock"}
    done = subprocess.run(
        [*NAMESPACES, *command, sys.executable, "-c", PROGRAM, uri, str(folder / "work.pem"), str(user), str(group)],
        cwd="/",
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def can_make_containers() -> bool:
    """Only root can, without help, and not within every other container."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    return subprocess.run([*NAMESPACES, "true"], capture_output=True, check=False).returncode == 0


if can_make_containers():

    def test_a_program_in_a_container_signs_without_the_key(running: Running, tmp_path: Path) -> None:
        """It is a process of another root and has another id there; the agent notes the one that it has outside."""
        jkt, pid, sees_key = in_container(running, tmp_path, "agent:work", 0, 0)
        assert (jkt, sees_key) == (running.key().thumbprint, "False")
        (noted,) = running.audited
        assert noted["event"] == "signed"
        assert (int(pid) < 10, noted["pid"] > 10) == (True, True)

    def test_a_program_of_another_user_in_a_container_needs_the_group(running: Running, tmp_path: Path) -> None:
        """It names the agent's user, and the socket's group is its own; without the group it cannot connect."""
        uri = f"agent:work?uid={os.geteuid()}"
        jkt, *_ = in_container(running, tmp_path, uri, MEMBER, GROUP)
        assert jkt == running.key().thumbprint
        assert in_container(running, tmp_path, uri, STRANGER, STRANGER) == ["KeyAccessDeniedError"]
