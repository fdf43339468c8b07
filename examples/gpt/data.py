"""Text as batches of bytes or tokens, each a pure function of the seed and the step.

Tokens are two files beside each other, `train.bin` and `val.bin`, as nanoGPT's: plain
uint16 or uint32, read through a memory map. `tokenize` adds `tokenizer.json` and
`tokens.json`, which tells their type, their vocabulary and their bytes per token.
"""

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import grain
import jax
import numpy as np

from .checkpoints import read_sealed
from .config import DataConfig, UserError, require

HELD_OUT = 20  # one file in so many is held out for validation
END_OF_FILE = b"\0"
END_TOKENS = ("<|endoftext|>", "<|end_of_text|>", "</s>")
# Each is in a folder that this program has written, which is nobody's text.
OURS = {"run.json", "report.json", "tokens.json"}
Span = tuple[Path, int, int]  # the bytes of a file from here to there


@dataclass(frozen=True)
class Text:
    """What to train on, what is held out from it, and what identifies both."""

    train: np.ndarray  # uint8 bytes, or uint16 or uint32 tokens
    validation: np.ndarray
    name: str
    sha256: str
    unit: str = "bytes"
    vocabulary: int = 256
    bytes_per_token: float | None = 1.0  # of the held-out part, where it is known
    tokenizer: str | None = None  # what tokenizer.json says
    mix: "Text | None" = None  # another text, and its share of the rows of a batch
    share: float = 0.0

    @property
    def identity(self) -> str:
        """Short and equal for equal texts and mixtures, wherever they are."""
        own = self.sha256[:16]
        return own if self.mix is None else f"{own}+{self.share}*{self.mix.identity}"

    def manifest(self) -> dict:
        mix = self.mix and self.mix.manifest() | {"share": self.share}
        tokenizer = self.tokenizer and _sha256(self.tokenizer)
        return {
            "name": self.name,
            "identity": self.identity,
            "sha256": self.sha256,
            "unit": self.unit,
            "train": len(self.train),
            "held_out": len(self.validation),
            "bytes_per_token": self.bytes_per_token,
            "tokenizer": tokenizer,
            "mix": mix,
        }


def load_text(config: DataConfig) -> Text:
    """The text of a config, with what it is mixed with."""
    text = _load(config, config.data)
    if config.mix is None:
        return text
    path, share = config.mixed
    mix = _load(config, path)
    require(
        mix.tokenizer == text.tokenizer and mix.unit == text.unit,
        f"{mix.name} is not made of the same tokens as {text.name}: tokenize it with "
        "--tokenizer, giving the tokenizer.json of the other.",
    )
    return replace(text, mix=mix, share=share)


def _load(config: DataConfig, path: Path | None) -> Text:
    if path is not None and _are_tokens(path):
        text = _read_tokens(path)
    else:
        text = _read_text(config, path)
    need = config.sequence_length + 1
    parts = {"to train on": text.train, "that are held out": text.validation}
    for what, part in parts.items():
        require(
            len(part) >= need,
            f"--sequence-length {config.sequence_length} needs at least {need} "
            f"{text.unit} {what}, but {text.name} has {len(part)}.",
        )
    return text


def _read_text(config: DataConfig, path: Path | None) -> Text:
    files = text_files(path, config.binary)
    contents, digest = {}, hashlib.sha256()
    for name, file in files.items():
        content = contents[file] = file.read_bytes()
        digest.update(os.fsencode(name) + f"\0{len(content)}\0".encode() + content)
    train, validation = (
        np.frombuffer(b"".join(_cut(contents[f], a, b) for f, a, b in part), np.uint8)
        for part in split_files(files)
    )
    name = "jax source" if path is None else printable(path)
    return Text(train, validation, name, digest.hexdigest())


def text_files(path: Path | None, binary: bool = False) -> dict[str, Path]:
    """The files of text at a path by their names there, in the order of those."""
    is_empty = True
    try:
        if path is None:
            root = Path(jax.__file__).parent
            found = sorted(root.rglob("*.py"))
        elif path.is_dir():
            root, found = path, sorted(_walk(path))
        else:
            root, found = path.parent, [path]
        files = {p.relative_to(root).as_posix(): p for p in found}
        for file in files.values():
            with file.open("rb") as content:
                start = content.read(8000)
            require(
                binary or END_OF_FILE not in start,
                f"{file} is not text but binary or compressed: move it elsewhere, or "
                "take its bytes all the same with --binary.",
            )
            is_empty = is_empty and not start
    except OSError as error:
        raise UserError(f"Cannot read {error.filename}: {error.strerror}.") from error
    require(not is_empty, f"There is no text in {path}.")
    return files


def _walk(root: Path) -> Iterable[Path]:
    """All files but hidden ones and what this program itself has written."""
    for folder, folders, names in os.walk(root):
        hidden = {n for n in folders if n.startswith((".", "__pycache__"))}
        folders[:] = [] if OURS & set(names) else sorted(set(folders) - hidden)
        if not OURS & set(names):
            paths = (Path(folder, n) for n in names if not n.startswith("."))
            yield from (path for path in paths if path.is_file())


def split_files(files: dict[str, Path]) -> tuple[list[Span], list[Span]]:
    """What to train on, and what is held out.

    A file is held out by the hash of its name, so that adding files moves none. Text of
    a single file is held out at its end.
    """
    names = list(files)
    held_out = {name for name in names if int(_sha256(name)[:16], 16) % HELD_OUT == 0}
    if len(names) == 1:
        size = files[names[0]].stat().st_size
        cut = size + 1 - (size + 1) // HELD_OUT
        return [(files[names[0]], 0, cut)], [(files[names[0]], cut, size + 1)]
    if not held_out or len(held_out) == len(names):
        held_out = {names[-1]}
    train, validation = [], []
    for name, file in files.items():
        part = validation if name in held_out else train
        part.append((file, 0, file.stat().st_size + 1))
    return train, validation


def _cut(content: bytes, start: int, stop: int) -> bytes:
    return content[start:stop] + (END_OF_FILE if stop > len(content) else b"")


def _are_tokens(path: Path) -> bool:
    return path.suffix == ".bin" if path.is_file() else (path / "train.bin").exists()


def _read_tokens(path: Path) -> Text:
    """Tokens that `tokenize` or nanoGPT wrote, of which only a part is looked at."""
    folder = path if path.is_dir() else path.parent
    try:
        about = read_sealed(folder / "tokens.json")
    except FileNotFoundError:  # nanoGPT's
        about = {"dtype": "uint16", "vocabulary": None, "bytes_per_token": None}
    except ValueError as error:
        raise UserError(f"{folder}/tokens.json is not good: {error}.") from error
    whole = path.is_dir() or path.name in ("train.bin", "val.bin")
    files = [folder / "train.bin", folder / "val.bin"] if whole else [path]
    try:
        maps = [np.memmap(file, about["dtype"], "r") for file in files]
    except (OSError, ValueError) as error:
        raise UserError(f"Cannot read tokens from {path}: {error}.") from error
    train, validation = maps[0], maps[-1]
    if not whole:
        cut = len(train) - len(train) // HELD_OUT
        train, validation = train[:cut], train[cut:]
    digest = hashlib.sha256()
    for tokens in maps:
        digest.update(f"{len(tokens)}\0".encode())
        for start in np.linspace(0, max(0, len(tokens) - 2048), 256).astype(int):
            digest.update(tokens[start : start + 2048].tobytes())
    largest = int(validation[-(2**22) :].max(initial=0))
    tokenizer = folder / "tokenizer.json"
    return Text(
        train,
        validation,
        printable(path),
        digest.hexdigest(),
        "tokens",
        about["vocabulary"] or -(-(largest + 1) // 64) * 64,
        about["bytes_per_token"],
        tokenizer.read_text() if tokenizer.exists() else None,
    )


def codec(tokenizer: str | None) -> tuple[Callable, Callable, int]:
    """From bytes to tokens, back again, and the token that ends a text."""
    if tokenizer is None:
        return list, bytes, END_OF_FILE[0]
    model = make_tokenizer(tokenizer)
    ends = (model.token_to_id(name) for name in END_TOKENS)
    end = next((token for token in ends if token is not None), None)
    if end is None:
        raise UserError(f"The tokenizer has none of {', '.join(END_TOKENS)}.")

    def encode(text: bytes) -> list[int]:
        return model.encode(text.decode(errors="replace"), add_special_tokens=False).ids

    def decode(tokens: list[int]) -> bytes:
        return model.decode(tokens, skip_special_tokens=False).encode()

    return encode, decode, end


def make_tokenizer(tokenizer: str):
    from tokenizers import Tokenizer

    try:
        model = Tokenizer.from_str(tokenizer)
    except Exception as error:  # all that the library raises
        raise UserError(f"The tokenizer cannot be read: {error}.") from error
    model.encode_special_tokens = True  # as the text that they are
    return model


class StepBatches(grain.sources.RandomAccessDataSource):
    """Element `step` is the batch of that step: random windows of the text.

    A run that resumes and a cooldown that branches off at a step see what the trunk saw
    or would have seen. Where another text is mixed in, its rows take the place of rows
    of the first, which loses no others. With several processes each makes its own rows.
    """

    def __init__(
        self,
        text: np.ndarray,
        config: DataConfig,
        seed: int,
        other: np.ndarray | None = None,
        share: float = 0.0,
    ):
        self.text, self.config, self.seed = text, config, seed
        self.other, self.share = other, share
        self.rows = process_rows(config)

    def __len__(self) -> int:
        return 2**31 - 1

    def __getitem__(self, record_key) -> np.ndarray:
        # One Philox stream per step: the step is the high word of its counter.
        counter = np.array([0, 0, 0, record_key], np.uint64)
        random = np.random.Generator(np.random.Philox(key=self.seed, counter=counter))
        batch = self._windows(self.text, random)
        if self.other is not None:
            is_other = random.random(self.config.batch_size) < self.share
            others = self._windows(self.other, random)
            batch = np.where(is_other[self.rows, None], others, batch)
        return batch

    def _windows(self, text: np.ndarray, random: np.random.Generator) -> np.ndarray:
        window = self.config.sequence_length + 1
        last = len(text) - window
        starts = random.integers(0, last, self.config.batch_size, endpoint=True)
        return text[starts[self.rows, None] + np.arange(window)].astype(np.int32)


def process_rows(config: DataConfig) -> slice:
    """The rows of a batch that this process makes."""
    rows = config.batch_size // jax.process_count()
    return slice(rows * jax.process_index(), rows * (jax.process_index() + 1))


def training_batches(text: Text, config: DataConfig, seed: int, step: int):
    """An endless iterator over the batches from a step on, made ahead in threads."""
    other = None if text.mix is None else text.mix.train
    return batches_from(StepBatches(text.train, config, seed, other, text.share), step)


def batches_from(source: StepBatches, step: int):
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


def printable(path: Path) -> str:
    return os.fsencode(path).decode(errors="replace")


def _sha256(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()
