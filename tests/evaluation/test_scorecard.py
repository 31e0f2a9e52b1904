"""What a scorecard says of its numbers beside them."""

from typing import Any

from montessori.stages import scorecard


def manifest(stage: str, label: str, **summary: Any) -> dict[str, Any]:
    return {"request": {"stage": stage, "label": label}, "summary": summary}


def test_what_the_stages_have_counted_is_told_once_for_all_shards():
    said = scorecard._told(
        [
            manifest("answers", "mine: answers to AlpacaEval", chat_template="Montessori default"),
            manifest("answers", "mine: answers to AlpacaEval", chat_template="Montessori default"),
            manifest("answers", "theirs: answers to AlpacaEval", chat_template="the model's own"),
            manifest("verdicts", "mine against theirs", unmatched=2, letters=0.9),
            manifest("verdicts", "mine against theirs", unmatched=1, letters=0.3),
            manifest("verdicts", "theirs against ours", unmatched=0, letters=None),
        ]
    )
    assert len(said) == 3
    assert said[0].startswith("mine: answers to AlpacaEval: the model has no chat template")
    assert said[1].startswith("mine against theirs: 3 instructions are answered on one side alone")
    assert "probability of 30%" in said[2]
