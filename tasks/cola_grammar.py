"""A small English grammar for `task=cola scale=mini`: sentences that are acceptable, or wrong in exactly one
place.
"""

from __future__ import annotations

import random

NOUNS = {  # singular: (plural, reflexive pronoun)
    "boy": ("boys", "himself"),
    "king": ("kings", "himself"),
    "waiter": ("waiters", "himself"),
    "girl": ("girls", "herself"),
    "queen": ("queens", "herself"),
    "actress": ("actresses", "herself"),
    "robot": ("robots", "itself"),
    "dog": ("dogs", "itself"),
    "company": ("companies", "itself"),
}
REFLEXIVES = ("himself", "herself", "itself", "themselves")
DETERMINERS = (
    ("a", "every", "this", "each"),
    ("these", "those", "many", "several"),
)  # of a singular, of a plural noun
ADJECTIVES = ("old", "happy", "clever", "famous", "tired")
INTRANSITIVE = ("sleep", "laugh", "arrive", "disappear", "wait")
TRANSITIVE = ("admire", "follow", "praise", "help", "remember")
CLAUSAL = ("claim", "think", "believe", "know")


def sentences(count: int) -> list[tuple[str, int]]:
    """`count` different sentences with their labels, 1 = acceptable. About 0.7 of them are, as in CoLA."""
    rng = random.Random(0)
    labels: dict[str, int] = {}
    while len(labels) < count:
        number = rng.getrandbits(32)
        broken = rng.randint(1, Writer(number).spots) if rng.random() < 0.26 else 0
        labels.setdefault(Writer(number, broken).text, int(not broken))
    return list(labels.items())


class Writer:
    """Writes one sentence, `text`, which could go wrong in as many places as `spots` says.

    The same `seed` writes the same sentence but for the place number `broken`, which does go wrong (0: none
    does).
    """

    def __init__(self, seed: int, broken: int = 0):
        rng = random.Random(seed)
        self.chance = lambda probability: rng.random() < probability
        self.choice = rng.choice
        self.broken, self.spots = broken, 0
        words = (
            self.question() if self.chance(0.2) else self.polarity() if self.chance(0.15) else self.clause()
        )
        self.text = " ".join(words.split())

    def spot(self, right: str, wrong: str) -> str:
        self.spots += 1
        return wrong if self.spots == self.broken else right

    def order(self, first: str, second: str) -> str:
        return self.spot(f"{first} {second}", f"{second} {first}")

    def agree(self, plural: bool, forms: tuple[str, str]) -> str:
        return self.spot(forms[plural], forms[not plural])

    def verb(self, plural: bool, verbs: tuple[str, ...]) -> str:
        verb = self.choice(verbs)
        return self.agree(plural, (verb + "s", verb))

    def infinitive(self, verbs: tuple[str, ...]) -> str:
        verb = self.choice(verbs)
        return self.spot(verb, verb + "s")

    def clause(self, nested: bool = False) -> str:
        plural = self.chance(0.5)
        subject, reflexive = self.phrase(plural, near=True)
        kinds = [self.intransitive, self.transitive, self.reflexive, self.negative, self.passive]
        predicate = self.choice(kinds if nested else [*kinds, self.clausal])
        return f"{subject} {predicate(plural, reflexive)}"

    def intransitive(self, plural: bool, _: str) -> str:
        return f"{self.verb(plural, INTRANSITIVE)} {self.spot('', self.intruder())}"

    def transitive(self, plural: bool, _: str) -> str:
        return f"{self.verb(plural, TRANSITIVE)} {self.spot(self.object(), '')}"

    def reflexive(self, plural: bool, reflexive: str) -> str:
        others = [other for other in REFLEXIVES if other != reflexive]
        return f"{self.verb(plural, TRANSITIVE)} {self.spot(reflexive, self.choice(others))}"

    def negative(self, plural: bool, _: str) -> str:
        return f"{self.agree(plural, ('does', 'do'))} {self.order('not', self.infinitive(INTRANSITIVE))}"

    def passive(self, plural: bool, _: str) -> str:
        verb = self.choice(TRANSITIVE)
        participle = self.spot(verb.removesuffix("e") + "ed", verb)
        return f"{self.agree(plural, ('is', 'are'))} {participle} {self.order('by', self.object())}"

    def clausal(self, plural: bool, _: str) -> str:
        return f"{self.verb(plural, CLAUSAL)} {self.order('that', self.clause(nested=True))}"

    def polarity(self) -> str:
        """Only a negative subject goes with "ever"."""
        plural = self.chance(0.5)
        negative = self.spot("no", self.choice(("the", *DETERMINERS[plural])))
        return f"{negative} {self.noun(plural)[0]} ever {self.verb(plural, INTRANSITIVE)}"

    def question(self) -> str:
        """ "who" is the object, so that there can be no other."""
        plural = self.chance(0.5)
        subject, _ = self.phrase(plural, near=True)
        start = self.order(self.agree(plural, ("does", "do")), subject)
        return f"who {start} {self.infinitive(TRANSITIVE)} {self.spot('', self.intruder())} ?"

    def noun(self, plural: bool) -> tuple[str, str]:
        singular = self.choice(list(NOUNS))
        return (NOUNS[singular][0], "themselves") if plural else (singular, NOUNS[singular][1])

    def phrase(self, plural: bool, near: bool = False) -> tuple[str, str]:
        """(noun phrase, the reflexive that goes with it).

        A noun `near` it may disagree with the verb that follows.
        """
        noun, reflexive = self.noun(plural)
        if self.chance(0.3):
            noun = self.order(self.choice(ADJECTIVES), noun)
        determiner = "the" if self.chance(0.5) else self.agree(plural, self.pair())
        attractor = f"near {self.object()}" if near and self.chance(0.3) else ""
        return f"{self.order(determiner, noun)} {attractor}", reflexive

    def pair(self) -> tuple[str, str]:
        return self.choice(DETERMINERS[0]), self.choice(DETERMINERS[1])

    def object(self) -> str:
        return self.phrase(self.chance(0.5))[0]

    def intruder(self) -> str:
        """A noun phrase that has no place of its own where it could go wrong."""
        return f"the {self.noun(self.chance(0.5))[0]}"
