"""A SLURM cluster of one node, this machine: real daemons of the system's packages.

The jobs find the cluster by ``/etc/slurm/slurm.conf`` and by nothing else, so there is one such
cluster on a machine at a time, and it takes root to have it. A machine that has a configuration of
its own is left alone.
"""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

CONFIGURATION = Path("/etc/slurm/slurm.conf")
MARK = "# Written by a test of dsa110-contimg.\n"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "sinfo")
#: Where the daemons are, which a user's PATH may leave out.
SEARCH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])

#: No accounting database, as on many small clusters, and no control groups, which containers rarely
#: offer: memory is sampled every second, and a job that exceeds its own is killed.
TEMPLATE = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
SlurmctldPort=16817
SlurmdPort=16818
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherParams=OverMemoryKill
JobAcctGatherFrequency=task=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=bf_interval=5,batch_sched_delay=0,sched_min_interval=100000
AccountingStorageType=accounting_storage/none
MinJobAge=3600
ReturnToService=2
SwitchType=switch/none
MpiDefault=none
KillWait=1
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory_mb} State=UNKNOWN
PartitionName=test Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def why_not():
    """Return why no cluster can be had here; empty if it can."""
    if absent := [name for name in PROGRAMS if shutil.which(name, path=SEARCH) is None]:
        return f"no {', '.join(absent)}: apt-get install slurmctld slurmd slurm-client munge"
    if os.geteuid():
        return f"needs root, for {CONFIGURATION}"
    if CONFIGURATION.exists() and not CONFIGURATION.read_text().startswith(MARK):
        return f"this machine has a cluster of its own ({CONFIGURATION})"
    try:
        socket.gethostbyname(_host())
    except OSError:
        return f"this machine does not know itself as {_host()} (/etc/hosts)"
    return ""


@contextmanager
def cluster():
    """Run a cluster; yield the folder that holds its logs."""
    with ExitStack() as stack:
        lock = stack.enter_context(open(Path(tempfile.gettempdir()) / "contimg-slurm.lock", "w"))
        fcntl.flock(lock, fcntl.LOCK_EX)  # of several test processes, one has the cluster
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-")))
        # munged wants its socket within everyone's reach, and its key out of it.
        folder.chmod(0o755)
        for name, mode in (("key", 0o700), ("munge", 0o755), ("state", 0o755), ("spool", 0o755)):
            (folder / name).mkdir(mode=mode)
        key = folder / "key/munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        CONFIGURATION.parent.mkdir(exist_ok=True)
        text = TEMPLATE.format(
            host=_host(), folder=folder, cpus=os.cpu_count(), memory_mb=_memory_mb()
        )
        CONFIGURATION.write_text(MARK + text)
        stack.callback(CONFIGURATION.unlink)
        _start(
            stack,
            folder,
            "munged",
            "--foreground",
            f"--key-file={key}",
            f"--socket={folder}/munge/socket",
            *(f"--{name}-file={folder}/key/{name}" for name in ("pid", "log", "seed")),
        )
        wait_for((folder / "munge/socket").exists, "munged")
        _start(stack, folder, "slurmctld", "-D")
        _start(stack, folder, "slurmd", "-D")
        try:
            wait_for(lambda: "idle" in call("sinfo", "--noheader", "--format=%T"), "node")
        except TimeoutError as error:
            logs = [path.read_text()[-2000:] for path in sorted(folder.glob("slurm*.log"))]
            raise TimeoutError("\n".join([str(error), *logs])) from None
        stack.callback(_empty_queue)
        try:
            yield folder
        finally:
            for process in started:
                stack.callback(_stop, process)
            started.clear()
            if not call("sinfo", "--noheader"):
                wait_for(lambda: call("sinfo", "--noheader"), "controller")


def call(*command):
    """Return what a command of SLURM prints; nothing if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout if done.returncode == 0 else ""


def queue():
    """Return the states of all jobs that the controller knows of, by id."""
    lines = call("squeue", "--states=all", "--noheader", "--format=%i %T").splitlines()
    return dict(line.split() for line in lines)


def drain(yes):
    """Keep the node from starting jobs, or let it start them again."""
    state = ("State=DRAIN", "Reason=test") if yes else ("State=RESUME",)
    call("scontrol", "update", f"NodeName={_host()}", *state)


def restart_controller(folder):
    """Let the controller begin anew, without any memory of jobs."""
    call("scontrol", "shutdown", "slurmctld")
    time.sleep(2)
    for pid in _daemons("slurmctld"):
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(folder / "state")
    (folder / "state").mkdir()
    _again(folder, "slurmctld", "-D", "-c")


def kill_node():
    """Kill the node's daemon with all jobs, and let the controller know."""
    for pid in [*_daemons("slurmd"), *_daemons("slurmstepd")]:
        os.kill(pid, signal.SIGKILL)
    call("scontrol", "update", f"NodeName={_host()}", "State=DOWN", "Reason=test")


def restore_node(folder):
    """Bring the node back, whatever was done to it."""
    if not _daemons("slurmd"):
        _again(folder, "slurmd", "-D")
    wait_for(lambda: call("sinfo", "--noheader"), "controller")
    call("scontrol", "update", f"NodeName={_host()}", "State=RESUME")
    wait_for(lambda: "idle" in call("sinfo", "--noheader", "--format=%T"), "node", 90)


def _again(folder, program, *options):
    """Start a daemon again; it ends with the test's process."""
    command = ["setpriv", "--pdeathsig", "TERM", shutil.which(program, path=SEARCH), *options]
    with open(folder / f"{program}.out", "a") as log:
        started.append(subprocess.Popen(command, stdout=log, stderr=log))


#: Daemons that were started again; stopped with the cluster.
started = []


def _daemons(name):
    """Return the processes of a daemon of the test's cluster, but for the dead."""
    found = []
    for comm in Path("/proc").glob("[0-9]*/comm"):
        try:
            dead = " Z " in comm.with_name("stat").read_text()
            if comm.read_text().strip() == name and not dead:
                found.append(int(comm.parent.name))
        except OSError:
            continue
    return found


def _empty_queue():
    call("scancel", "--state=PENDING")
    call("scancel", "--state=RUNNING")
    ended = {"CANCELLED", "COMPLETED", "FAILED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL"}
    wait_for(lambda: set(queue().values()) <= ended, "end of all jobs")


def _start(stack, folder, program, *options):
    """Start a daemon in the foreground, to be stopped when the stack is unwound."""
    # A killed test process takes its daemons along.
    command = ["setpriv", "--pdeathsig", "TERM", shutil.which(program, path=SEARCH), *options]
    with open(folder / f"{program}.out", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    stack.callback(_stop, process)


def _stop(process):
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_for(condition, what, timeout_s=30):
    """Wait until a condition holds; raise `TimeoutError` if it does not."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"SLURM: no {what} in {timeout_s} s")
        time.sleep(0.2)


def _host():
    return socket.gethostname().split(".")[0]


def _memory_mb():
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(pages / 2**20 * 0.9)
