"""JupyterLab's settings here: ``jupyter lab --config environment/jupyter/config.py``."""

import os
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def put_first(variable: str, path: Path) -> None:
    """Have a list of paths in the environment begin with this one."""
    os.environ[variable] = os.pathsep.join(filter(None, [str(path), os.environ.get(variable)]))


put_first("JUPYTER_PATH", HERE)  # the kernel, before any that the user or the machine has
put_first("JUPYTER_CONFIG_PATH", HERE)  # labconfig/: what settings are until the user changes them
put_first("PYTHONPATH", ROOT)  # `import project` in any notebook, also without the launcher

c = get_config()  # type: ignore[name-defined]
c.ServerApp.root_dir = str(ROOT)
c.ServerApp.port_retries = 0  # the port that was asked for, or none
c.LabApp.extension_manager = "readonly"  # what is installed is what is locked
c.KernelSpecManager.allowed_kernelspecs = {"python3"}  # no kernel of another environment
