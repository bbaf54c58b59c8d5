"""The places of clipping: what is compared at each, what with, and how that is called. Said here once."""

from __future__ import annotations

from dataclasses import dataclass

from clipbench.record.rows import CLIP_KEYS


@dataclass(frozen=True)
class Place:
    """Where one clips, and so what its methods are compared with.

    `reference`: the name of that method, "" where there is none and nothing is compared; `words` for it in
    print, `brief` for it in notes. `subject` and `how`: what the verdict is about, as "clipping helps" and
    "it depends on how one clips". `title`: what sets its figures apart from those of training, "" of these.

    A method is told by the setting `type_key` and by those that begin with `prefix`; it is tuned over these
    and over `tuned`. All other settings are shared by what is compared.

    `trains`: its methods act in training, and so have steps, a learning rate and a time of their own. Where
    they do not, a trained model is changed, and its run as it was stands for the reference.
    """

    name: str
    reference: str
    words: str
    brief: str
    subject: str
    how: str
    title: str = ""
    trains: bool = True
    type_key: str = "clipping_type"
    prefix: str = "optim.clip."
    tuned: tuple[str, ...] = (*CLIP_KEYS[1:], "lr")

    def is_of_the_rule(self, key: str) -> bool:
        """Whether a setting is one of the method's own, its name among them."""
        is_own = key in self.tuned and key != "lr"
        return key == self.type_key or is_own or key.startswith(self.prefix)

    def is_of_the_method(self, key: str) -> bool:
        """Whether a setting is what methods are tuned over: its own, or the learning rate."""
        return key in self.tuned or self.is_of_the_rule(key)

    def in_words(self, name: str) -> str:
        """ "none" → "no clipping"; the other methods are printed as they are typed."""
        return self.words if name == self.reference else name


def _trained(name: str, reference: str, words: str, brief: str) -> Place:
    return Place(name, reference, words, brief, subject="clipping", how="how one clips")


def _changed(name: str, what: str, subject: str, title: str) -> Place:
    return Place(
        name,
        reference="none",
        words=f"the {what} as trained",
        brief="its parent",
        subject=subject,
        how="the transform",
        title=title,
        trains=False,
        type_key="transform.name",
        prefix="transform.",
        tuned=(),
    )


GRADIENT = _trained("gradient", "none", "no clipping", "none")

PLACES = {
    "gradient": GRADIENT,
    "example": _trained("example", "", "", ""),
    "activation": _changed("activation", "model", "bounding activations", "trained activations"),
    "weight": _changed("weight", "weights", "changing the weights", "trained weights"),
}
"""By the name that stands in the column `place` of `runs`."""
