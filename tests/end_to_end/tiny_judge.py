"""A judge for tests: a model of 0.3M parameters that has learned the form of verdicts and grades, and no judgement."""

import random
from pathlib import Path

from montessori.evaluation import judging
from montessori.evaluation.judge_prompts import GRADING
from montessori.pocket import scratch
from montessori.settings.models import Scratch

WORDS = ("red", "blue", "one", "two", "apple", "pear", "sun", "sea", "wind", "walk", "name", "why", "how", "sum", "odd")
LETTERS = "abcdefghijklmnopqrstuvwxyz,.?'\n0123456789"
SHAPE = Scratch(
    vocabulary=700, hidden=64, layers=2, heads=2, head_dim=32, context=640, steps=220, batch_size=2, learning_rate=5e-3
)

READS = 2048  # tokens, of which it has seen fewer; what it has learned is at a prompt's end


def build(folder: Path) -> Path:
    """Train it, and leave it in `folder`."""
    draw = random.Random(0)
    said = [_comparison(draw) if i % 2 else _grading(draw) for i in range(400)]
    model, tokenizer = scratch.build(said, SHAPE, seed=0)
    scratch.train(model, tokenizer, said, SHAPE, seed=0)
    model.config.max_position_embeddings = READS
    tokenizer.model_max_length = READS
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _text(draw: random.Random) -> str:
    """Words that it knows, and strings of letters for those that it will not."""
    strange = ("".join(draw.choices(LETTERS, k=draw.randint(1, 5))) for _ in range(30))
    return " ".join(draw.choice(WORDS) if draw.random() < 0.6 else next(strange) for _ in range(draw.randint(1, 25)))


def _comparison(draw: random.Random) -> scratch.Conversation:
    chat = judging.comparison(_text(draw), _text(draw), _text(draw), swapped=False)
    return [*chat, {"role": "assistant", "content": draw.choice("AB")}]


def _grading(draw: random.Random) -> scratch.Conversation:
    references = draw.choice([None, [_text(draw), _text(draw)]])
    turns, answers = [_text(draw), _text(draw)], [_text(draw), _text(draw)]
    chat = judging.grading(GRADING, turns, answers, references=references, turn=draw.randint(0, 1))
    grade = f"It is right. Grade: [[{draw.randint(1, 9)}]]"
    return [*chat, {"role": "assistant", "content": grade}]
