"""Text as batches of bytes or tokens, each a pure function of the seed and the step.

Tokens are `train.bin` and `val.bin`, read through a memory map: nanoGPT's, or those of
`tokenize`, which adds tokenizer.json, and tokens.json about their type and number.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np

from .checkpoints import sha256
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
    identity: str  # equal for equal texts and mixtures, wherever they are
    unit: str = "bytes"
    vocabulary: int = 256
    bytes_per_token: float | None = 1.0  # of the held-out part, where it is known
    tokenizer: str | None = None  # what tokenizer.json says
    mix: "Text | None" = None  # another text, and its share of the rows of a batch
    share: float = 0.0

    def manifest(self) -> dict[str, Any]:
        names = "name", "identity", "unit", "bytes_per_token", "share"
        return {name: getattr(self, name) for name in names} | {
            "train": len(self.train),
            "held_out": len(self.validation),
            "tokenizer": self.tokenizer and sha256(self.tokenizer),
            "mix": self.mix and self.mix.manifest(),
        }


def load_text(config: DataConfig) -> Text:
    """The text of a config, with what it is mixed with."""
    text = _load(config, config.data)
    if config.mix is None:
        return text
    path, share = config.mixed
    mix = _load(config, path)
    require_same_tokens(mix, text.manifest())
    identity = f"{text.identity}+{share}*{mix.identity}"
    return replace(text, mix=mix, share=share, identity=identity)


def _load(config: DataConfig, path: Path | None) -> Text:
    if path and (path.suffix == ".bin" or (path / "train.bin").exists()):
        text = _read_tokens(path)
    else:
        files = text_files(path, config.binary)
        contents = {file: file.read_bytes() + END_OF_FILE for file in files.values()}
        train, validation = (
            np.frombuffer(
                b"".join(contents[file][a:b] for file, a, b in part), np.uint8
            )
            for part in split_files(files)
        )
        seen = []
        for name, file in files.items():
            content = contents[file][:-1]
            seen += [os.fsencode(name), f"\0{len(content)}\0".encode(), content]
        name = "jax source" if path is None else str(path)
        text = Text(train, validation, name, _identity(seen))
    need, least = config.sequence_length + 1, min(len(text.train), len(text.validation))
    what = f"at least {need} {text.unit} to train on and as many held out"
    found = f"but {text.name} has {least}"
    require(least >= need, f"--sequence-length {need - 1} needs {what}, {found}.")
    return text


def require_same_tokens(text: Text, other: dict[str, Any]) -> None:
    """Refuses a text that is not in the tokens of another, given by its manifest."""
    about = text.manifest()
    require(
        all(about[name] == other[name] for name in ("unit", "tokenizer")),
        f"{text.name} is not made of the same tokens as {other['name']}: tokenize it "
        "with --tokenizer, giving the tokenizer.json of the other or of a run.",
    )


def _identity(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]


def text_files(path: Path | None, binary: bool = False) -> dict[str, Path]:
    """The files of text at a path by their names there, in the order of those."""
    if path is None:
        root = Path(jax.__file__).parent
        found = root.rglob("*.py")
    elif path.is_dir():
        root, found = path, _walk(path)
    else:
        root, found = path.parent, [path]
    files = {p.relative_to(root).as_posix(): p for p in sorted(found)}
    require(bool(files), f"There is no text in {path}.")
    for file in files.values():
        with file.open("rb") as content:
            start = content.read(8000)
        require(
            binary or END_OF_FILE not in start,
            f"{file} is not text but binary or compressed: move it elsewhere, or take "
            "its bytes all the same with --binary.",
        )
    return files


def _walk(root: Path) -> Iterable[Path]:
    """All files but hidden ones and what this program itself has written."""
    for folder, folders, names in os.walk(root):
        if OURS & set(names):
            folders.clear()
            continue
        folders[:] = [n for n in folders if not n.startswith((".", "__pycache__"))]
        paths = (Path(folder, n) for n in names if not n.startswith("."))
        yield from (path for path in paths if path.is_file())


def split_files(files: dict[str, Path]) -> tuple[list[Span], list[Span]]:
    """What to train on, and what is held out: files, by the hash of their names, so
    that adding files moves none; of a single file its end.
    """
    spans = {n: (path, 0, path.stat().st_size + 1) for n, path in files.items()}
    held_out = {name for name in files if int(sha256(name)[:16], 16) % HELD_OUT == 0}
    if len(files) == 1:
        ((path, _, stop),) = spans.values()
        cut = stop - stop // HELD_OUT
        return [(path, 0, cut)], [(path, cut, stop)]
    if len(held_out) in (0, len(files)):
        held_out = {[*files][-1]}
    train = [span for name, span in spans.items() if name not in held_out]
    return train, [span for name, span in spans.items() if name in held_out]


def _read_tokens(path: Path) -> Text:
    """Tokens that `tokenize` or nanoGPT wrote, of which only a part is looked at."""
    folder = path if path.is_dir() else path.parent
    about_path, tokenizer = folder / "tokens.json", folder / "tokenizer.json"
    about = {"dtype": "uint16", "vocabulary": None, "bytes_per_token": None}
    whole = path.is_dir() or path.name in ("train.bin", "val.bin")
    files = [folder / "train.bin", folder / "val.bin"] if whole else [path]
    try:
        if about_path.exists():
            about = json.loads(about_path.read_bytes())
        maps = [np.memmap(file, about["dtype"], "r") for file in files]
    except ValueError as error:
        raise UserError(f"The tokens of {folder} cannot be read: {error}.") from error
    train, validation = maps[0], maps[-1]
    if not whole:
        cut = len(train) - len(train) // HELD_OUT
        train, validation = train[:cut], train[cut:]
    largest = int(validation[-(2**22) :].max(initial=0))
    seen = [f"{about} {[len(tokens) for tokens in maps]}".encode()]
    for tokens in maps:
        starts = np.linspace(0, max(0, len(tokens) - 2048), 256).astype(int)
        seen += [tokens[start : start + 2048].tobytes() for start in starts]
    return Text(
        train,
        validation,
        str(path),
        _identity(seen),
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
    known = model.get_vocab()
    ends = [known[name] for name in END_TOKENS if name in known]
    require(bool(ends), f"The tokenizer has none of {', '.join(END_TOKENS)}.")

    def encode(text: bytes) -> list[int]:
        return model.encode(text.decode(errors="replace"), add_special_tokens=False).ids

    def decode(tokens: list[int]) -> bytes:
        return model.decode(tokens, skip_special_tokens=False).encode()

    return encode, decode, ends[0]


def make_tokenizer(tokenizer: str):
    from tokenizers import Tokenizer

    try:
        model = Tokenizer.from_str(tokenizer)
    except Exception as error:  # all that the library raises
        raise UserError(f"The tokenizer cannot be read: {error}.") from error
    model.encode_special_tokens = True  # as the text that they are
    return model


@dataclass(frozen=True)
class StepBatches(grain.sources.RandomAccessDataSource):
    """Element `step` is the batch of that step: random windows of the text.

    A run that resumes and a cooldown that branches off at a step see what the trunk saw
    or would have seen. Where another text is mixed in, its rows take the place of rows
    of the first, which loses no others. With several processes each makes its own rows.
    """

    text: np.ndarray
    config: DataConfig
    seed: int
    other: np.ndarray | None = None
    share: float = 0.0

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
            batch = np.where(is_other[process_rows(self.config), None], others, batch)
        return batch

    def _windows(self, text: np.ndarray, random: np.random.Generator) -> np.ndarray:
        window = self.config.sequence_length + 1
        last = len(text) - window
        starts = random.integers(0, last, self.config.batch_size, endpoint=True)
        starts = starts[process_rows(self.config), None]
        return text[starts + np.arange(window)].astype(np.int32)


def process_rows(config: DataConfig) -> slice:
    """The rows of a batch that this process makes."""
    rows = config.batch_size // jax.process_count()
    return slice(rows * jax.process_index(), rows * (jax.process_index() + 1))


def training_batches(text: Text, config: DataConfig, seed: int, step: int):
    """An endless iterator over the batches from a step on, made ahead in a thread."""
    other = None if text.mix is None else text.mix.train
    source = StepBatches(text.train, config, seed, other, text.share)
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=8)
    batches = iter(grain.MapDataset.source(source).to_iter_dataset(options))
    batches.set_state({"next_index": step})
    return batches


def validation_batches(text: Text, config: DataConfig) -> np.ndarray:
    """This process's windows of every evaluation, evenly spaced: batches x rows x L."""
    window, rows = config.sequence_length + 1, config.batch_size
    fitting = min(config.validation_sequences, len(text.validation) // window)
    batches, last = max(1, fitting // rows), len(text.validation) - window
    starts = np.linspace(0, last, batches * rows).astype(np.int64)
    starts = starts.reshape(batches, rows, 1)[:, process_rows(config)]
    return text.validation[starts + np.arange(window)].astype(np.int32)
