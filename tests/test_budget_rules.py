"""What a run has cost: counted from its parts, whenever they were made."""

from pathlib import Path

import pytest

from montessori.artifacts import Folder, Store
from montessori.budget import Usage, over_limit, price_of, usage_of_others
from montessori.settings.engines import OpenAI, Price

PRICE = {"input": 1.0, "output": 2.0}
READ, WRITTEN = 1000, 500


def make(store: Store, address: str, **usage: float) -> None:
    with store.staging() as folder:
        about = {"seconds": 36.0, "summary": {"usage": {"prompt_tokens": READ, "completion_tokens": WRITTEN, **usage}}}
        store.commit(address, folder, about)


def spent(store: Store, paid: list[str]) -> Usage:
    budget = {"parts": ["a/1", "b/2", "own/0"], "paid": dict.fromkeys(paid, PRICE)}
    return usage_of_others(store, budget, "own/0")()


def test_parts_of_other_runs_and_parts_at_work_count(tmp_path: Path):
    store = Folder(tmp_path)
    make(store, "a/1", usd=0.5)
    make(store, "own/0", usd=100)
    with store.journal("b/2") as journal:
        journal.sync({"prompt_tokens": 7, "completion_tokens": 3, "usd": 0.25, "seconds": 72.0})
        assert spent(store, ["a/1", "b/2"]) == Usage(READ + WRITTEN + 10, 0.75, pytest.approx(0.03))


def test_what_was_made_before_the_price_was_known_is_paid_by_its_tokens(tmp_path: Path):
    store = Folder(tmp_path)
    make(store, "a/1")
    make(store, "b/2")
    assert spent(store, ["a/1"]).usd == pytest.approx((READ * 1.0 + WRITTEN * 2.0) / 1e6)
    assert spent(store, []).usd == 0  # by an engine here, or of no known price


def test_a_part_that_is_made_while_it_is_looked_at_is_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store, usage = Folder(tmp_path), Store.usage
    monkeypatch.setattr("montessori.budget.LOOK_EVERY_S", 0.0)

    def made_in_between(self: Store, address: str) -> dict[str, float]:
        used = usage(self, address)
        if not used and address == "a/1":
            make(store, "a/1", usd=3)
        return used

    look = usage_of_others(store, {"parts": ["a/1"], "paid": {}}, "own/0")
    monkeypatch.setattr(Store, "usage", made_in_between)
    look()
    assert look().usd == 3


def test_the_sentence_names_the_limit_and_what_to_do():
    assert over_limit({"usd": 5.0, "tokens": None}, Usage(tokens=1e9, usd=4.99)) is None
    sentence = over_limit({"usd": 5.0}, Usage(usd=5.01))
    assert sentence and sentence.startswith("budget.usd = 5 is reached (5.01 used)")
    coming = over_limit({"tokens": 1000}, Usage(tokens=10), Usage(tokens=995))
    assert coming and "does not reach for more (10 used, up to 995 by what comes next)" in coming
    assert "raise budget.tokens and run the same command" in coming


def test_the_users_price_goes_before_the_list():
    assert price_of(OpenAI(model="gpt-4o")) == Price(input=2.5, output=10)
    assert price_of(OpenAI(model="gpt-4o", price=Price(input=1, output=1))) == Price(input=1, output=1)
    assert price_of(OpenAI(model="mine")) is None
