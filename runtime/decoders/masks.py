"""Candidates for mask tokens, as transformers' FillMaskPipeline ranks them.

Source of the rules: transformers 4.57.6, `pipelines/fill_mask.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bertonnx.errors import RowError
from bertonnx.runtime.decoders import DecoderContext
from bertonnx.runtime.rows import Array, Encoded, Item, Outputs, Piece
from bertonnx.wording import Option

__all__ = ["Candidates", "MaskDecoder", "mask_decoder"]


def mask_decoder(context: DecoderContext) -> MaskDecoder:
    """Return the decoder of a model that fills masks."""
    card = context.card
    return MaskDecoder(
        card.mask_token or "",
        card.mask_token_id or 0,
        card.pad_token_id if card.left_out_id is None else card.left_out_id,
        context.tokenizer.decode_ids,
        context.top_k,
    )


class Candidates(NamedTuple):
    """The best tokens for one mask, best first; scores are exact float32 values."""

    token_ids: list[int]
    scores: list[float]


class _Mask(NamedTuple):
    """A mask token as one window sees it."""

    key: tuple[int, int]
    context: tuple[int, int]
    piece: Piece
    place: int
    candidates: Candidates


@dataclass(frozen=True)
class MaskDecoder:
    """Items `{"masks": [[{"token", "token_id", "score", "sequence"}]]}`: a list for each mask token.

    `sequence` is the text (of several windows, the one the mask was taken from) with the candidate
    in the mask's place. It shows special tokens where a row has several masks, since the others
    would vanish otherwise. A mask in several windows is taken from the one that shows most of the
    text on its poorer side.

    Attributes:
        mask_token: what a user writes where a word is to be predicted (`Card.mask_token`).
        mask_token_id: its id (`Card.mask_token_id`).
        left_out_id: of a token that is left out of `sequence`; -1 for none (`Card.left_out_id`).
        decode_ids: token ids, and whether to skip special tokens, to text.
        top_k: how many candidates there are for each mask.
    """

    mask_token: str
    mask_token_id: int
    left_out_id: int
    decode_ids: Callable[[list[int], bool], str]
    top_k: int = 5

    fetch = ("logits",)

    def keep(self, piece: Piece, outputs: Outputs) -> list[Candidates]:
        """Return the best tokens of each mask of the piece, in order; all other logits are let go."""
        logits = outputs["logits"]
        return [_best(logits[place], self.top_k) for place in self._places(piece)]

    def decode(self, encoded: Encoded, kept: Sequence[list[Candidates]]) -> Item:
        """Return the candidates of every mask of the row, in order of the text.

        Raises:
            RowError: `no-mask`: the text has no mask token, or it was cut off.
        """
        best: dict[tuple[int, int], _Mask] = {}
        for piece, candidates in zip(encoded.pieces, kept, strict=True):
            for mask in self._masks(piece, candidates):
                seen = best.get(mask.key)
                if seen is None or mask.context > seen.context:
                    best[mask.key] = mask
        if not best:
            raise self._no_mask(encoded)
        return {"masks": [self._filled(best[key], single=len(best) == 1) for key in sorted(best)]}

    def _places(self, piece: Piece) -> list[int]:
        places: list[int] = np.flatnonzero(piece.ids == self.mask_token_id).tolist()
        return places

    def _masks(self, piece: Piece, kept: list[Candidates]) -> list[_Mask]:
        if not kept:
            return []
        encoding = piece.encoding
        text = np.flatnonzero(np.array(encoding.special_tokens_mask) == 0).tolist()
        masks = []
        for place, candidates in zip(self._places(piece), kept, strict=True):
            key = (encoding.sequence_ids[place] or 0, encoding.offsets[place][0])
            # Compared by the poorer side: a mask at the edge of a window sees half of its text.
            sides = sorted((place - text[0], text[-1] - place))
            masks.append(_Mask(key, (sides[0], sides[1]), piece, place, candidates))
        return masks

    def _filled(self, mask: _Mask, *, single: bool) -> list[Item]:
        ids: list[int] = mask.piece.ids.tolist()
        filled = []
        for token_id, score in zip(*mask.candidates, strict=True):
            ids[mask.place] = token_id
            # As in the pipeline, padding is never part of the text.
            sequence = self.decode_ids([i for i in ids if i != self.left_out_id], single)
            token = self.decode_ids([token_id], False)
            filled.append({"token": token, "token_id": token_id, "score": score, "sequence": sequence})
        return filled

    def _no_mask(self, encoded: Encoded) -> RowError:
        if encoded.truncated and self.mask_token in encoded.row.text:
            return RowError(
                "no-mask",
                "{mask} stands after the part of the text that the model can take; use {option}",
                mask=self.mask_token,
                option=Option("long_text", "stride"),
            )
        return RowError(
            "no-mask",
            "there is no mask token in the text; write {mask} for the missing word",
            mask=self.mask_token,
        )


def _best(logits: Array, top_k: int) -> Candidates:
    """Return the `top_k` tokens of highest softmax, of equal ones the lower id first."""
    # Less the largest, so that no exponential overflows.
    exponentials = np.exp(logits - logits.max())
    # A partition: sorting a whole vocabulary to keep five of it costs several times as much.
    least = np.partition(logits, -top_k)[-top_k] if top_k < len(logits) else -np.inf
    token_ids = np.flatnonzero(logits >= least)
    token_ids = token_ids[np.argsort(-logits[token_ids], kind="stable")][:top_k]
    scores = (exponentials[token_ids] / exponentials.sum()).tolist()
    return Candidates(token_ids.tolist(), scores)
