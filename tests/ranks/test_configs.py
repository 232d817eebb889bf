"""The launchers' files in configs/: each is read by the program that it is for, or checked as far as that goes here."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from torch.distributed.run import get_args_parser

from pipeline.ranks import launcher

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs" / "accelerate"
LAUNCH = ROOT / "configs" / "launch"


@pytest.mark.parametrize(
    ("name", "processes", "machines"), [("2-cards", 2, 1), ("4-cards", 4, 1), ("8-cards", 8, 1), ("machines", 16, 2)]
)
def test_accelerate_reads_its_configs(name: str, processes: int, machines: int) -> None:
    config = load_config_from_file(str(CONFIGS / f"{name}.yaml"))
    assert (config.num_processes, config.num_machines) == (processes, machines)
    assert config.distributed_type == "MULTI_GPU"
    assert config.mixed_precision == "no"  # set by model.dtype
    assert not config.use_cpu
    if machines > 1:
        assert config.main_process_ip
        assert config.main_process_port


def test_accelerate_reads_the_config_of_sharded_runs() -> None:
    """By which `accelerate launch` sets the variable that Suri reads."""
    path = str(CONFIGS / "fsdp.yaml")
    config = load_config_from_file(path)
    assert (config.num_processes, config.distributed_type) == (4, "FSDP")
    parsed = launch_command_parser().parse_args(["--config_file", path, "-m", "scripts.train"])
    parsed, *_ = _validate_launch_command(parsed)
    assert parsed.use_fsdp
    environment = prepare_multi_gpu_env(parsed)
    assert environment[launcher.FSDP] == "true"


def test_every_accelerate_config_is_tested() -> None:
    assert {path.stem for path in CONFIGS.iterdir()} == {"2-cards", "4-cards", "8-cards", "machines", "fsdp"}


def test_the_command_in_the_header_is_accelerates() -> None:
    """As far as its own parser reads it."""
    text = (CONFIGS / "machines.yaml").read_text()
    words = re.search(r"accelerate launch (.*?)--config=", text.replace("\\\n#", ""), re.S)
    assert words
    options = words[1].replace("#", "").split()
    options[options.index("--config_file") + 1] = str(CONFIGS / "machines.yaml")
    parsed = launch_command_parser().parse_args([*options, "--config=configs/mine.yaml"])
    assert parsed.module
    assert parsed.training_script == "scripts.train"
    checked, *_ = _validate_launch_command(parsed)
    assert (checked.num_processes, checked.num_machines, checked.main_process_ip) == (16, 2, "10.0.0.1")


@pytest.mark.parametrize("name", ["slurm.sh", "ssh.sh"])
def test_scripts_are_bash(name: str) -> None:
    made = subprocess.run(["bash", "-n", str(LAUNCH / name)], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert (LAUNCH / name).stat().st_mode & 0o111
    assert "set -euo pipefail" in (LAUNCH / name).read_text()


def torchrun(text: str) -> None:
    """Whether torchrun knows the options of its call in a script; variables count as numbers."""
    call = re.search(r"torchrun\s+(\"?--nnodes.*?-m scripts\.train)", text.replace("\\\n", " "), re.S)
    assert call
    words = re.sub(r"\$\{\w+:-(\d+)\}|\$\{#?\w+(?:\[[@0]\])?\}|\$\w+", lambda m: m[1] or "2", call[1]).replace('"', "")
    parsed = get_args_parser().parse_args([*words.split(), "--config=x"])
    assert parsed.training_script == "scripts.train"
    assert parsed.module
    assert parsed.max_restarts == 3
    assert parsed.rdzv_backend == "c10d"
    assert parsed.rdzv_endpoint.endswith(":29500")


def test_torchrun_knows_its_options() -> None:
    for name in ("slurm.sh", "ssh.sh"):
        torchrun((LAUNCH / name).read_text())
    torchrun(yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())["run"])


def test_ssh_starts_every_host(tmp_path: Path) -> None:
    """With an `ssh` that only notes its words."""
    fake = tmp_path / "ssh"
    fake.write_text(f'#!/bin/bash\necho "$2|$3" >> {tmp_path}/calls\n')
    fake.chmod(0o755)
    made = subprocess.run(
        ["bash", str(LAUNCH / "ssh.sh"), "configs/my file.yaml", "train.lr=1e-4"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "HOSTS": "gpu1 gpu2", "CARDS": "4"},
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    calls = sorted((tmp_path / "calls").read_text().splitlines())
    assert [call.split("|")[0] for call in calls] == ["gpu1", "gpu2"]
    for number, call in enumerate(calls):
        assert f"--nnodes=2 --node-rank={number} --nproc-per-node=4" in call
        assert "--rdzv-endpoint=gpu1:29500" in call
        assert call.endswith(r"--config=configs/my\ file.yaml train.lr=1e-4 ")
        assert f"RUNS={tmp_path}/runs" in call


def test_ssh_needs_hosts() -> None:
    made = subprocess.run(["bash", str(LAUNCH / "ssh.sh"), "x"], env={"PATH": "/bin"}, capture_output=True, text=True)
    assert made.returncode
    assert "HOSTS names the machines" in made.stderr


def test_sbatch_headers() -> None:
    text = (LAUNCH / "slurm.sh").read_text()
    headers = dict(re.findall(r"^#SBATCH --([a-z-]+)=(.+)$", text, re.M))
    assert headers["ntasks-per-node"] == "1"  # torchrun starts the processes
    assert headers["signal"] == "TERM@120"
    commands = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert text.index("#SBATCH --signal") < text.index(commands[0])  # sbatch reads none behind the first command


def test_skypilot_mounts_the_runs() -> None:
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    assert task["num_nodes"] == 2
    assert task["resources"]["accelerators"] == "H100:8"
    (mount,) = task["file_mounts"]
    assert task["envs"]["RUNS"].startswith(mount)
    assert task["file_mounts"][mount]["mode"] == "MOUNT"
    for part in ("setup", "run"):
        made = subprocess.run(["bash", "-n"], input=task[part], capture_output=True, text=True)
        assert made.returncode == 0, made.stderr


def test_the_pytorchjob() -> None:
    job = yaml.safe_load((LAUNCH / "pytorchjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    spec = job["spec"]
    worker = spec["pytorchReplicaSpecs"]["Worker"]
    assert spec["elasticPolicy"]["minReplicas"] == spec["elasticPolicy"]["maxReplicas"] == worker["replicas"]
    pod = worker["template"]["spec"]
    (container,) = pod["containers"]
    assert container["name"] == "pytorch"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == int(spec["nprocPerNode"])
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert container["command"][1:3] == ["-m", "scripts.train"]
