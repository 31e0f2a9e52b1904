"""Root verbs of instructions and their direct objects, by rules for English imperatives.

In: instructions.  Out: (verb, object) of each; the object is missing where there is none, the whole where no verb was
found.  There is no parser behind it. The verb is the first word that is left when polite or explaining openings
("please", "can you", "you need to", "given a list,") are taken off; sentences that start with a subject are passed
over. A question gives its question word, or its first word ("is", "can"), and no object. The object is the last noun of
the phrase behind the verb, which ends at a punctuation mark, a preposition, a clause or a participle; its plural is
taken off.

What it gets wrong: a noun that opens a sentence is taken for a verb; verbs are not told from nouns inside the phrase
("describe the color yellow" gives yellow); a preposition that belongs to its verb ends the phrase ("look for a job" has
no object); an opening that no rule knows. Of 60 rows labelled by hand, half of Alpaca-GPT4 and half of Self-Instruct's
seeds, the verb was right in 57 (95%), verb and object in 54 (90%); docs/results/evaluation.md has the method.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

Root = tuple[str, str | None]


@dataclass(frozen=True)
class Verb:
    """How often a verb is the root."""

    name: str
    times: int
    bare: int  # of them without an object
    objects: list[tuple[str, int]]  # the commonest, with how often


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


QUESTIONS = _words("what how why who whom whose which when where")
AUXILIARIES = _words("is are was were am does did can could should would will shall may might must has")
SUBJECTS = _words(
    "i we you he she it they there this that these those a an the my our your his her its their some many most all "
    "each every one two three"
)
CLAUSE_OPENINGS = _words(
    "given using based in for from with to as if after before when while assuming considering imagine imagining "
    "suppose according by during on at of without regarding"
)
INTO_CLAUSE = _words(
    "that which who whom whose when where how why what whether if to because so while than as until unless"
)
PREPOSITIONS = _words(
    "of in on at by for with from into onto about between among through during without within against across after "
    "before under over using based regarding concerning per via like toward towards around behind beyond including "
    "upon according out off up down together below above here there again then"
)
PARTICLES = _words("up out down off")
DETERMINERS = _words(
    "a an the this these those my our your his her its their some any each every all both another no such one two "
    "three four five six seven eight nine ten several many few more most other following "
    "above below"
)
VERBS_IN_LY = _words("reply apply supply multiply imply rely comply")
RECEIVERS = _words("me us")
PARTICIPLES = _words("given written made taken shown seen known found said called being")
ADJECTIVE = re.compile(r".+(?:ive|ful|ous|able|ible|less|ish|ic|ical|ese|ed)$")
WORD = re.compile(r"[^\W\d_](?:[\w’'+#/-]*[\w+#])?|\d[\w.,/-]*|[^\w\s]")
SENTENCE = re.compile(r"(?<=[.!?;])\s+|\n+")
LABEL = re.compile(r"^\s*(?:\d+[.)]|[-*•]|(?:question|q|task|instruction|prompt|problem):)\s*", re.IGNORECASE)
TASK = re.compile(r"\byou (?:(?:will )?(?:need|have)|are (?:asked|required|supposed|expected)) to\b", re.IGNORECASE)
ASKED_BY = re.compile(r"^(?:in|at|on|to|for|by|with|from|of) (?=which\b|what\b|whom\b|whose\b)", re.IGNORECASE)
OPENING = re.compile(
    r"^(?:please|kindly|now|then|first|next|finally|just|also|hi|hello|hey|ok|okay|so"
    r"|(?:can|could|would|will) you(?: please)?(?! (?:be|have)\b)"
    r"|(?:i|we) (?:want|need|would like|'d like|ask) you to|i'd like you to"
    r"|you (?:(?:will |would )?(?:need|have)(?: to)?|are (?:asked|required|supposed|expected) to|should|must|will)"
    r"|(?:your|the) (?:task|job|goal|assignment) is to|try to|help (?:me|us)(?: to)?|let'?s|let us|be sure to"
    r"|make sure to|do not|don'?t)\b[\s,]*",
    re.IGNORECASE,
)


def root(instruction: str) -> Root | None:
    """Return the root verb of an instruction, or its question word, and the verb's direct object."""
    for sentence in SENTENCE.split(instruction):
        if pair := _root_of_sentence(sentence):
            return pair
    return None


def most_common(instructions: Iterable[str], verbs: int, objects: int) -> tuple[list[Verb], int]:
    """Return the commonest verbs with the commonest objects of each, and how many instructions have a verb."""
    pairs = [pair for instruction in instructions if (pair := root(instruction))]
    shown = []
    for name, times in _ordered(Counter(verb for verb, _ in pairs))[:verbs]:
        things = Counter(thing for verb, thing in pairs if verb == name)
        bare = things.pop(None, 0)
        named = Counter({thing: n for thing, n in things.items() if thing})
        shown.append(Verb(name, times, bare, _ordered(named)[:objects]))
    return shown, len(pairs)


def _ordered(counts: Counter[str]) -> list[tuple[str, int]]:
    """Order by falling count, equal ones by name."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _root_of_sentence(sentence: str) -> Root | None:
    words = [word.lower().replace("’", "'") for word in WORD.findall(_without_openings(sentence))]
    words = words[next((i for i, word in enumerate(words) if word[0].isalnum()), len(words)) :]
    if words and words[0].endswith("ly") and words[0] not in VERBS_IN_LY:
        words = words[1:]
    if not words or not words[0][0].isalpha():
        return None
    asks = sentence.rstrip().endswith("?")
    asked = words[0].partition("'")[0]  # what's
    if asked in QUESTIONS | AUXILIARIES or (asks and asked in ("do", "have")):
        return asked, None
    if words[0] in SUBJECTS | PREPOSITIONS | INTO_CLAUSE:
        return None
    rest = words[1:]
    if len(rest) > 1 and rest[0] in ("and", "or", "/"):  # compare and contrast
        rest = rest[2:]
    return re.sub(r"^re-", "re", words[0]), _object(rest)


def _without_openings(sentence: str) -> str:
    text = ASKED_BY.sub("", LABEL.sub("", sentence.strip()))
    first = re.match(r"\w+", text)
    if first and first[0].lower() in CLAUSE_OPENINGS | SUBJECTS:
        text = TASK.split(text)[-1].strip()
    while True:
        shorter = OPENING.sub("", text, count=1)
        first = re.match(r"\w+", shorter)
        if first and first[0].lower() in CLAUSE_OPENINGS:
            shorter = shorter.partition(",")[2].strip()  # without a comma nothing is left
        if shorter == text:
            return text
        text = shorter


def _object(words: list[str]) -> str | None:
    """Return the head of the noun phrase at the start of `words`."""
    head: str | None = None
    started = False
    for position, word in enumerate(words):
        follows = words[position + 1] if position + 1 < len(words) else "."
        if head is None and not started and (word in RECEIVERS or word in PARTICLES):
            continue
        if head is None and word == "of" and started:  # each of the sentences
            continue
        if word == "one" and head is not None:  # the largest one
            return word
        if word in DETERMINERS or word[0].isdigit() or word.endswith(("ly", "'s", "s'")):
            if head is not None and word in DETERMINERS:
                break
            started = True
            continue
        if head is not None and (word == "but" or (word in ("and", "or", ",") and ADJECTIVE.match(head))):
            continue  # between adjectives
        if not word[0].isalpha() or word in PREPOSITIONS | INTO_CLAUSE | {"and", "or"}:
            break
        if word in AUXILIARIES:  # a clause: its subject is not the object
            return None
        if head is not None and _opens_participle(word, follows):
            break
        head = word
    return _singular(head) if head else None


def _opens_participle(word: str, follows: str) -> bool:
    """Say whether `word` behind a noun starts a participle of its own, not the next part of a compound."""
    if word.endswith("ing"):
        return follows in DETERMINERS
    if word.endswith("ed") or word in PARTICIPLES:
        return not follows[0].isalpha() or follows in PREPOSITIONS | INTO_CLAUSE | DETERMINERS
    return False


def _singular(noun: str) -> str:
    if len(noun) < 4 or noun.endswith(("ss", "us", "is", "bias", "canvas", "lens", "series", "species", "news")):
        return noun
    if noun.endswith("ies"):
        return noun[:-3] + "y"
    if noun.endswith(("sses", "ches", "shes", "xes")):
        return noun[:-2]
    return noun.removesuffix("s")
