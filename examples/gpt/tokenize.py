"""Text as tokens: two files that `train --data` reads through a memory map."""

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from .checkpoints import write_sealed
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
        require(
            257 <= self.vocabulary < 2**24,
            f"--vocabulary must be from 257 to 2**24, got {self.vocabulary}.",
        )

    def __call__(self) -> None:
        require(not self.out.exists(), f"{self.out} is there already.")
        train, val = split_files(text_files(self.data))
        if self.tokenizer is not None:
            tokenizer = self.tokenizer.read_text()
        else:
            tokenizer = _train_bpe(_pieces(train), self.vocabulary)
        model, (_, _, end) = make_tokenizer(tokenizer), codec(tokenizer)
        vocabulary = model.get_vocab_size()
        dtype = "uint16" if vocabulary <= 2**16 else "uint32"
        draft = self.out.with_name(f".{self.out.name}.draft")  # of one killed, too
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        about = {"dtype": dtype, "vocabulary": vocabulary}
        for name, spans in (("train", train), ("val", val)):
            path = draft / f"{name}.bin"
            tokens, size = _write_tokens(path, _pieces(spans), model, end, dtype)
            about["bytes_per_token"] = size / max(tokens, 1)
            say(f"{name}: {size:,} bytes are {tokens:,} tokens")
        (draft / "tokenizer.json").write_text(tokenizer)
        write_sealed(draft / "tokens.json", about)
        draft.rename(self.out)
        say(f"{self.out} has a vocabulary of {vocabulary:,}: train --data {self.out}")


def _train_bpe(pieces: Iterable[bytes], vocabulary: int) -> str:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    say(f"Training a byte-level BPE of {vocabulary:,} tokens")
    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_TOKENS[0]],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (piece.decode(errors="replace") for piece in pieces)
    model.train_from_iterator(texts, trainer)
    return model.to_str()


def _pieces(spans: Iterable[Span]) -> Iterator[bytes]:
    """Files in pieces that end with lines, and an empty piece at the end of each."""
    for path, start, stop in spans:
        with path.open("rb") as file:
            file.seek(start)
            while piece := file.read(min(PIECE, stop - file.tell())):
                yield piece + file.readline(min(PIECE, stop - file.tell()))
            if file.tell() < stop:
                yield b""


def _write_tokens(path: Path, pieces, model, end: int, dtype: str) -> tuple[int, int]:
    """Writes tokens, and returns their number and that of the bytes they stand for."""
    tokens = size = 0
    with path.open("wb") as file:
        while group := list(islice(pieces, PIECES)):
            texts = [piece.decode(errors="replace") for piece in group]
            size += sum(max(1, len(piece)) for piece in group)
            for encoding in model.encode_batch(texts, add_special_tokens=False):
                ids = np.array(encoding.ids or [end], dtype)
                tokens += len(ids)
                file.write(ids.tobytes())
    return tokens, size
