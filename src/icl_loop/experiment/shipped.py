"""The experiments that come with the package, by name."""

from pathlib import Path

from icl_loop.core.errors import InputError, nearest

_PACKAGE = Path(__file__).parents[1]
_FOLDERS = (_PACKAGE / "experiments", _PACKAGE.parents[1] / "experiments")
"""Where the files are: inside an installed package, or beside the sources."""


def shipped() -> dict[str, Path]:
    """Return the experiment files that come with the package, by name."""
    found = next((each for each in _FOLDERS if each.is_dir()), None)
    return {path.stem: path for path in sorted(found.glob("*.toml"))} if found else {}


def experiment_path(given: Path | str) -> Path:
    """Return the path of an experiment file, given as a path or as the name of a shipped experiment.

    Raises:
        InputError: There is neither such a file nor such a name.
    """
    path, names = Path(given), shipped()
    is_name = len(path.parts) == 1 and not path.suffix and not path.exists()
    if not is_name:
        return path
    if path.name not in names:
        raise InputError(
            f"there is no file {path} and no shipped experiment of this name; {nearest(path.name, names)}"
        )
    return names[path.name]
