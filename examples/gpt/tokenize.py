"""Text as tokens: two files that `train --data` reads through a memory map."""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from .checkpoints import write_json
from .config import require
from .data import END_TOKENS, Span, codec, make_tokenizer, split_files, text_files
from .progress import say

PIECE, PIECES = 2**16, 64  # bytes of text at once, and pieces beside each other


@dataclass(frozen=True)
class Tokenize:
    """Write a text as tokens, by a byte-level BPE that is trained on it."""

    # The folder to write.
    out: Path
    # Any file or folder of text, by default the source of the installed JAX.
    data: Path | None = None
    # Tokens that the BPE knows, the 256 bytes and the end of a file among them.
    vocabulary: int = 8192
    # Take this tokenizer.json instead of training one.
    tokenizer: Path | None = None

    def __post_init__(self):
        need = "--vocabulary must be at least 257 and below 2**24"
        require(257 <= self.vocabulary < 2**24, f"{need}, got {self.vocabulary}.")

    def __call__(self) -> None:
        require(not self.out.exists(), f"{self.out} is there already.")
        train, val = split_files(text_files(self.data))
        if self.tokenizer is not None:
            tokenizer = self.tokenizer.read_text()
        else:
            from tokenizers import ByteLevelBPETokenizer

            say(f"Training a byte-level BPE of {self.vocabulary:,} tokens")
            bpe, end = ByteLevelBPETokenizer(), [END_TOKENS[0]]
            texts = (piece.decode(errors="replace") for piece in pieces(train))
            options = {"special_tokens": end, "show_progress": False}
            bpe.train_from_iterator(texts, self.vocabulary, **options)
            tokenizer = bpe.to_str()
        model, (_, _, end) = make_tokenizer(tokenizer), codec(tokenizer)
        vocabulary = model.get_vocab_size()
        dtype = "uint16" if vocabulary <= 2**16 else "uint32"
        draft = self.out.with_name(f".{self.out.name}.draft")  # of one killed, too
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        about = {"dtype": dtype, "vocabulary": vocabulary}
        for name, spans in (("train", train), ("val", val)):
            path = draft / f"{name}.bin"
            tokens, size = _write_tokens(path, pieces(spans), model, end, dtype)
            about["bytes_per_token"] = size / max(tokens, 1)
            say(f"{name}: {size:,} bytes are {tokens:,} tokens")
        (draft / "tokenizer.json").write_text(tokenizer)
        write_json(draft / "tokens.json", about)
        draft.rename(self.out)
        say(f"{self.out} has a vocabulary of {vocabulary:,}: train --data {self.out}")


def _write_tokens(path: Path, parts, model, end: int, dtype: str) -> tuple[int, int]:
    """Writes tokens, and returns their number and that of the bytes they stand for."""
    tokens = size = 0
    with path.open("wb") as file:
        while group := list(islice(parts, PIECES)):
            texts = [piece.decode(errors="replace") for piece in group]
            size += sum(max(1, len(piece)) for piece in group)
            for encoding in model.encode_batch(texts, add_special_tokens=False):
                ids = np.array(encoding.ids or [end], dtype)
                tokens += len(ids)
                file.write(ids.tobytes())
    return tokens, size


def pieces(spans: Iterable[Span]) -> Iterable[bytes]:
    """Files in pieces that end with lines, and an empty piece at the end of each."""
    for path, start, stop in spans:
        with path.open("rb") as file:
            file.seek(start)
            while piece := file.read(min(PIECE, stop - file.tell())):
                yield piece + file.readline(min(PIECE, stop - file.tell()))
            if file.tell() < stop:
                yield b""
