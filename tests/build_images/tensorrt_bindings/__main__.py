"""`python -m tests.build_images.tensorrt_bindings`: fetches the wheels of wheels.txt that are not there yet."""

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.build_images.tensorrt_bindings.offered import folder_of, requirements


def fetch(line: str, folder: Path) -> bool:
    """One wheel by its pinned hash, whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as part:
        wanted = Path(part) / "wanted.txt"
        wanted.write_text(line + "\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        command += ["--no-deps", "--only-binary=:all:", "--require-hashes", "--dest", f"{part}/wheel"]
        if subprocess.run([*command, "-r", str(wanted)], check=False).returncode:
            return False
        (Path(part) / "wheel").rename(folder)
    return True


def main() -> int:
    """0 when every wheel is there."""
    for name, line in requirements().items():
        if folder_of(name).is_dir():
            continue
        print(f"fetching {name} …", flush=True)
        if not fetch(line, folder_of(name)):
            print(
                f"{name} cannot be fetched: see above. Without it the contract tests of TensorRT are skipped"
            )
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
