"""Text as batches of bytes, each a pure function of the seed and the step."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import grain
import jax
import numpy as np

from .config import DataConfig, UserError, require

HELD_OUT = 20  # one file in so many is held out for validation
END_OF_FILE = b"\0"


@dataclass(frozen=True)
class Text:
    """Bytes to train on, whole files held out from them, and what identifies both."""

    train: np.ndarray  # uint8
    validation: np.ndarray  # uint8
    name: str
    sha256: str

    def manifest(self) -> dict:
        size = len(self.train) + len(self.validation)
        return {"name": self.name, "sha256": self.sha256, "bytes": size}


def load_text(config: DataConfig) -> Text:
    """Reads the files below a path, in order of their names, and holds some out.

    A file is held out by the hash of its name, so that adding files moves none. Text of
    a single file is held out at its end.
    """
    files = _read_files(config.data)
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    held_out = {name for name in files if _is_held_out(name)}
    if not held_out or len(held_out) == len(files):
        train, validation = _split_end(files)
    else:
        train = _join(files[name] for name in files if name not in held_out)
        validation = _join(files[name] for name in files if name in held_out)
    name = "jax source" if config.data is None else str(config.data)
    need = config.sequence_length + 1
    for part, array in (("training", train), ("validation", validation)):
        require(
            len(array) >= need,
            f"--sequence-length {config.sequence_length} needs at least {need} bytes "
            f"of {part} text, but {name} has {len(array)}.",
        )
    return Text(train, validation, name, digest.hexdigest())


class StepBatches(grain.sources.RandomAccessDataSource):
    """Element `step` is the batch of that step: random windows of the text.

    A run that resumes and a cooldown that branches off at a step see what the trunk saw
    or would have seen. With several processes each makes its own rows.
    """

    def __init__(self, text: np.ndarray, config: DataConfig, seed: int):
        self.text, self.config, self.seed = text, config, seed
        self.rows = process_rows(config)

    def __len__(self) -> int:
        return 2**31 - 1

    def __getitem__(self, record_key) -> np.ndarray:
        # One Philox stream per step: the step is the high word of its counter.
        counter = np.array([0, 0, 0, record_key], np.uint64)
        random = np.random.Generator(np.random.Philox(key=self.seed, counter=counter))
        window = self.config.sequence_length + 1
        last = len(self.text) - window
        starts = random.integers(0, last, self.config.batch_size, endpoint=True)
        rows = starts[self.rows, None] + np.arange(window)
        return self.text[rows].astype(np.int32)


def process_rows(config: DataConfig) -> slice:
    """The rows of a batch that this process makes."""
    rows = config.batch_size // jax.process_count()
    return slice(rows * jax.process_index(), rows * (jax.process_index() + 1))


def batches_from(source: StepBatches, step: int):
    """An endless iterator over the batches from a step on, made ahead in threads."""
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=8)
    batches = iter(grain.MapDataset.source(source).to_iter_dataset(options))
    batches.set_state({"next_index": step})
    return batches


def validation_batches(text: Text, config: DataConfig) -> np.ndarray:
    """This process's part of the windows of every evaluation, evenly spaced.

    Returns:
        int32 array, batches x rows x (sequence_length + 1).
    """
    window, rows = config.sequence_length + 1, config.batch_size
    batches = max(1, min(config.validation_sequences, len(text.validation) // window))
    batches = max(1, batches // rows)
    last = len(text.validation) - window
    starts = np.linspace(0, last, batches * rows).astype(np.int64)
    starts = starts.reshape(batches, rows, 1)[:, process_rows(config)]
    return text.validation[starts + np.arange(window)].astype(np.int32)


def _read_files(path: Path | None) -> dict[str, bytes]:
    if path is None:
        root = Path(jax.__file__).parent
        found = sorted(root.rglob("*.py"))
    elif path.is_dir():
        root, found = path, sorted(p for p in path.rglob("*") if _is_text(p, path))
    else:
        root, found = path.parent, [path]
    try:
        files = {p.relative_to(root).as_posix(): p.read_bytes() for p in found}
    except OSError as error:
        raise UserError(f"Cannot read {error.filename}: {error.strerror}.") from error
    require(any(files.values()), f"There is no text in {path}.")
    return files


def _is_text(path: Path, root: Path) -> bool:
    parts = path.relative_to(root).parts
    hidden = any(part.startswith((".", "__pycache__")) for part in parts)
    return path.is_file() and not hidden


def _is_held_out(name: str) -> bool:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) % HELD_OUT == 0


def _split_end(files: dict[str, bytes]) -> tuple[np.ndarray, np.ndarray]:
    names = list(files)
    if len(names) > 1:  # hold out the last file
        return _join(files[n] for n in names[:-1]), _join([files[names[-1]]])
    text = _join(files.values())
    cut = len(text) - len(text) // HELD_OUT
    return text[:cut], text[cut:]


def _join(contents) -> np.ndarray:
    return np.frombuffer(b"".join(c + END_OF_FILE for c in contents), np.uint8)
