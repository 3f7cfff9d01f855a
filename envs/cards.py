"""Card games of POPGym (Morad et al. 2023, arXiv 2303.01859; `proroklab/popgym:popgym/envs/`): recall what was dealt.

A deck has `deck_size` cards (52 in popgym), equally many of each value (suit, colour or rank); `decks` of them are shuffled
together: n cards. popgym deals them without replacement, which leaks: values that have come less often are likelier. With
`replacement` each card is drawn from the full pack instead, nothing leaks, and the memoryless optima are closed forms.
Observations are popgym's numbers one-hot; lengths and rewards are popgym's.
The state holds how often each value has come, not an order of cards: the next value's distribution depends on no more.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from envs.env import Spec, at_least, flag
from envs.quiz import Quiz, tail
from envs.render_quiz import Tile

SUITS = ("spade", "diamond", "club", "heart")
KINDS = {"colors": 2, "suits": 4, "ranks": 13}
SHOWN = 10  # cards that a frame shows at most


class _Cards(Quiz):
    """The pack and its dealing."""

    values: int = 4  # that a card can have
    num_actions = 4
    action_names: ClassVar[tuple[str, ...]] = SUITS
    obs_low = 0.0

    def __init__(
        self,
        num_envs: int,
        device: str | torch.device = "cpu",
        seed: int = 0,
        cue_visible: bool = False,
        decks: int = 1,
        deck_size: int = 52,
        replacement: bool = False,
    ) -> None:
        self.decks, self.deck_size = at_least("decks", decks, 1), at_least("deck_size", deck_size, self.values)
        if self.deck_size % self.values:
            raise ValueError(f"deck_size must be a multiple of {self.values}, got {deck_size}")
        self.replacement = flag("replacement", replacement)
        self.cards = self.decks * self.deck_size  # n
        self.copies = self.cards // self.values
        self.lay_out()
        super().__init__(num_envs, device, seed, cue_visible)

    def lay_out(self) -> None:
        """Set `steps`, `questions` and the like, the number of cards being known."""
        raise NotImplementedError

    def prepare(self) -> None:
        super().prepare()
        self._values = torch.arange(self.values, device=self.device)
        self._none = torch.zeros(self.num_envs, self.values, dtype=torch.int64, device=self.device)

    def deal(self, dealt: Tensor) -> tuple[Tensor, Tensor]:
        """How often each value has come (B, V) int64 -> the next card (B,) int64, and `dealt` with it counted.

        An empty pack gives some card: no row shows it."""
        reached = (self._none + self.copies if self.replacement else self.copies - dealt).cumsum(1)
        card = (self.draw(reached[:, -1]).unsqueeze(1) >= reached).sum(1).clamp(max=self.values - 1)
        return card, dealt + self.one_hot(card)

    def one_hot(self, card: Tensor) -> Tensor:
        """(B,) int64 -> (B, V) bool."""
        return card.unsqueeze(1) == self._values


class RepeatState(NamedTuple):
    t: Tensor
    right: Tensor
    dealt: Tensor  # (B, 4) int64
    last: Tensor  # (B, k) int64: the last k suits, the newest last; the first card stands for those before it


class RepeatPrevious(_Cards):
    """Name the suit that was dealt k - 1 cards before the one on show; `popgym:popgym/envs/repeat_previous.py`.

    Episode: row t shows card t; n - 1 steps. The n - k rows from k - 1 on are questions, for the suit of card t - k + 1.
    Observation (4,): the suit on show, one-hot. popgym's Easy, Medium, Hard are (decks, k) = (1, 4), (2, 32), (3, 64).
    popgym's docstring contradicts itself about k = 1; as in its code it means the card on show. Ports differ: popjaxrl asks
    for the card k before.

    Spec sheet (n cards; for what holds for every quiz see `Quiz`)
      m = k - 1
      R0_memory              2 p - 1, p the best chance to guess another card's suit: with replacement 1/4; without, a
                             suit that is not on show is likelier: p = (n/4) / (n - 1). (k = 1: 1)
      R0_memory_last         None: such an agent can carry a suit in its own actions, for which it gives wrong answers;
                             the best trade is not known. (k = 1: 1)
      R_random = -0.5, max_rows = n
      chance                 with replacement each answer is right with probability 1/4 whatever the others are, under any
                             memoryless policy: a binomial tail. Without replacement they depend on each other: None

    Args:
        decks: >= 1; k: 1 .. n - 1; deck_size: a multiple of 4; replacement: see the module.
        num_envs, device, seed, cue_visible: as in `Env`.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        num_envs: int,
        device: str | torch.device = "cpu",
        seed: int = 0,
        cue_visible: bool = False,
        decks: int = 1,
        k: int = 4,
        deck_size: int = 52,
        replacement: bool = False,
    ) -> None:
        self.k = at_least("k", k, 1)
        super().__init__(num_envs, device, seed, cue_visible, decks, deck_size, replacement)

    def lay_out(self) -> None:
        if self.k >= self.cards:
            raise ValueError(f"k must be less than the {self.cards} cards, got {self.k}")
        self.steps, self.questions = self.cards - 1, self.cards - self.k

    def spawn(self) -> RepeatState:
        card, dealt = self.deal(self._none)
        return RepeatState(self._zero, self._zero, dealt, card.unsqueeze(1).expand(-1, self.k))

    def advance(self, state: RepeatState) -> RepeatState:
        card, dealt = self.deal(state.dealt)
        return state._replace(dealt=dealt, last=torch.cat((state.last[:, 1:], card.unsqueeze(1)), 1))

    def answer(self, state: RepeatState) -> Tensor:
        return state.last[:, 0]

    def observe(self, state: RepeatState) -> Tensor:
        return self.one_hot(state.last[:, -1]).float()

    def figures(self) -> Spec:
        if self.k == 1:
            return self.sheet(0, 1.0, 1.0, 1.0)
        if self.replacement:
            return self.sheet(self.k - 1, 1 / 4, None, tail(self.questions, 1 / 4, self.pass_mark))
        return self.sheet(self.k - 1, self.copies / (self.cards - 1), None, None)

    def tiles(self, state: Any) -> list[Tile]:
        seen = state.last[-(state.t + 1) :]
        asked = state.t >= self.k - 1
        past = [Tile("suit", card, "asked" if asked and i == 0 else "past") for i, card in enumerate(seen[:-1])]
        if len(past) >= SHOWN:
            past = [past[0], Tile("more"), *past[3 - SHOWN :]]
        alone = "asked" if self.k == 1 else "shown"
        return [*past, Tile("suit", seen[-1], alone)]


class FirstState(NamedTuple):
    t: Tensor
    right: Tensor
    dealt: Tensor  # (B, 4) int64
    first: Tensor  # (B,) int64: the suit to name
    card: Tensor  # (B,) int64: the suit on show


class RepeatFirst(_Cards):
    """Name the suit of the first card on every row; `popgym:popgym/envs/repeat_first.py`.

    Episode: row t shows card t; all n - 1 rows that can be acted on are questions. Observation (4,): the suit on show,
    one-hot. popgym's docstring speaks of a mark on the first card; its code has none, and so has this. popgym's Easy,
    Medium, Hard are decks = 1, 8, 16.

    Spec sheet (n cards; for what holds for every quiz see `Quiz`)
      m = n - 2
      R0_memory              naming the suit on show is best: right on row 0, then as often as two cards agree (1/4 with
                             replacement, (n/4 - 1) / (n - 1) without)
      R0_memory_last = 1     not a memory task for an agent that sees its last action: it names the card when there was no
                             action before, and then repeats itself
      R_random = -0.5, max_rows = n
      chance = 1/4           of naming one suit always, which is right on all rows or on none; its return is that of random
                             actions

    Args:
        decks: >= 1; deck_size: a multiple of 4; replacement: see the module.
        num_envs, device, seed, cue_visible: as in `Env`.

    Raises:
        ValueError: an argument out of range.
    """

    def lay_out(self) -> None:
        self.steps = self.questions = self.cards - 1

    def spawn(self) -> FirstState:
        card, dealt = self.deal(self._none)
        return FirstState(self._zero, self._zero, dealt, card, card)

    def advance(self, state: FirstState) -> FirstState:
        card, dealt = self.deal(state.dealt)
        return state._replace(dealt=dealt, card=card)

    def answer(self, state: FirstState) -> Tensor:
        return state.first

    def observe(self, state: FirstState) -> Tensor:
        return self.one_hot(state.card).float()

    def figures(self) -> Spec:
        Q = self.questions
        agree = 1 / 4 if self.replacement else (self.copies - 1) / (self.cards - 1)
        return self.sheet(self.cards - 2, (1 + (Q - 1) * agree) / Q, 1.0, 1 / 4)

    def tiles(self, state: Any) -> list[Tile]:
        if state.t == 0:
            return [Tile("suit", state.first, "asked")]
        between = [Tile("more")] if state.t > 1 else []
        return [Tile("suit", state.first, "asked"), *between, Tile("suit", state.card, "shown")]


class StackState(NamedTuple):
    t: Tensor
    right: Tensor
    dealt: Tensor  # (B, 4) int64
    stack: Tensor  # (B, n) uint8: the cards dealt so far; 0 beyond


class Autoencode(_Cards):
    """Watch n cards, then name their suits from the last to the first; `popgym:popgym/envs/autoencode.py`.

    Episode: rows 0..n-1 show the cards, the last of them with the mark "play", which starts the questions; the rows after
    it show "play" and suit 0, as popgym does. 2n - 1 steps; rows n - 1 .. 2n - 2 are the n questions.
    Observation (6,): [play, watch, suit one-hot]. popgym's Easy, Medium, Hard are decks = 1, 2, 3.

    Spec sheet (n cards; for what holds for every quiz see `Quiz`)
      m = 2n - 2             for the first card, asked last (0, 2, 4 ... for those before it: the last card is on show)
      R0_memory              suits other than 0 are on show only with the first question, so they are named, and suit 0
                             everywhere else: n/4 + 3/4 of n right, with and without replacement
      R0_memory_last         None: such an agent can carry a suit in its last action; the optimum is not known
      R_random = -0.5, max_rows = 2n
      chance                 with replacement a binomial tail; without: None, as the answers depend on each other

    Args:
        decks: >= 1; deck_size: a multiple of 4; replacement: see the module.
        num_envs, device, seed, cue_visible: as in `Env`.

    Raises:
        ValueError: an argument out of range.
    """

    def lay_out(self) -> None:
        self.steps, self.questions = 2 * self.cards - 1, self.cards

    def prepare(self) -> None:
        super().prepare()
        self._places = torch.arange(self.cards, device=self.device)
        self._empty = torch.zeros(self.num_envs, self.cards, dtype=torch.uint8, device=self.device)

    def _put(self, stack: Tensor, place: Tensor, card: Tensor) -> Tensor:
        return torch.where(self._places == place.unsqueeze(1), card.to(torch.uint8).unsqueeze(1), stack)

    def spawn(self) -> StackState:
        card, dealt = self.deal(self._none)
        return StackState(self._zero, self._zero, dealt, self._put(self._empty, self._zero, card))

    def advance(self, state: StackState) -> StackState:
        card, dealt = self.deal(state.dealt)
        return state._replace(dealt=dealt, stack=self._put(state.stack, state.t + 1, card))

    def answer(self, state: StackState) -> Tensor:
        return self._at(state, torch.minimum(state.t, 2 * self.cards - 2 - state.t))

    def observe(self, state: StackState) -> Tensor:
        play = state.t >= self.cards - 1
        card = torch.where(state.t < self.cards, self._at(state, state.t.clamp(max=self.cards - 1)), 0)
        return torch.cat((torch.stack((play, ~play), 1), self.one_hot(card)), 1).float()

    def _at(self, state: StackState, place: Tensor) -> Tensor:
        return state.stack.gather(1, place.clamp(min=0).unsqueeze(1)).squeeze(1).long()

    def figures(self) -> Spec:
        n = self.cards
        chance = tail(n - 1, 1 / 4, self.pass_mark - 1) if self.replacement else None
        return self.sheet(2 * n - 2, (n / 4 + 3 / 4) / n, None, chance)

    def tiles(self, state: Any) -> list[Tile]:
        n, t = self.cards, state.t
        top = min(t, 2 * n - 2 - t)
        tiles = [Tile("suit", state.stack[i], "past") for i in range(max(top - SHOWN + 2, 0), max(top, 0))]
        if t < n - 1:
            return [*tiles, Tile("suit", state.stack[t], "shown")]
        return [*tiles, Tile("suit", state.stack[top], "asked")] if top >= 0 else [Tile("back")]


class CountState(NamedTuple):
    t: Tensor
    right: Tensor
    dealt: Tensor  # (B, V) int64
    queried: Tensor  # (B, V) int64
    card: Tensor  # (B,) int64
    query: Tensor  # (B,) int64


class CountRecall(_Cards):
    """Say how many cards of the queried value have been dealt; `popgym:popgym/envs/count_recall.py`.

    Two packs: each row deals a card and, from the other pack, a query. The question of a row is how often the value queried
    there has been dealt, that row's card included. n - 1 steps, all questions. Actions 0 .. n/V are the counts; with
    replacement a count above n/V is answered with n/V. Observation (2V,): card and query, one-hot.
    popgym's Easy, Medium, Hard are (decks, kind) = (1, colors), (2, suits), (4, ranks).

    Spec sheet (n cards, V values; for what holds for every quiz see `Quiz`)
      m = n - 2
      R0_memory              exact: an observation tells whether card and query agree and nothing of t, and the best guess for
                             either case is the likeliest count over all rows (hypergeometric; binomial with replacement)
      R0_memory_last         None: such an agent can count in its own actions; the optimum is not known
      R_random               2 / (n/V + 1) - 1; max_rows = n
      chance                 None: the answers depend on each other

    Args:
        decks: >= 1; kind: "colors", "suits" or "ranks"; deck_size: a multiple of V (2, 4, 13); replacement: see the module.
        num_envs, device, seed, cue_visible: as in `Env`.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        num_envs: int,
        device: str | torch.device = "cpu",
        seed: int = 0,
        cue_visible: bool = False,
        decks: int = 1,
        kind: str = "colors",
        deck_size: int = 52,
        replacement: bool = False,
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
        self.kind, self.values = kind, KINDS[kind]
        super().__init__(num_envs, device, seed, cue_visible, decks, deck_size, replacement)

    def lay_out(self) -> None:
        self.steps = self.questions = self.cards - 1
        self.num_actions = self.copies + 1
        self.action_names = tuple(map(str, range(self.num_actions)))

    def spawn(self) -> CountState:
        card, dealt = self.deal(self._none)
        query, queried = self.deal(self._none)
        return CountState(self._zero, self._zero, dealt, queried, card, query)

    def advance(self, state: CountState) -> CountState:
        card, dealt = self.deal(state.dealt)
        query, queried = self.deal(state.queried)
        return state._replace(dealt=dealt, queried=queried, card=card, query=query)

    def answer(self, state: CountState) -> Tensor:
        return state.dealt.gather(1, state.query.unsqueeze(1)).squeeze(1).clamp(max=self.copies)

    def observe(self, state: CountState) -> Tensor:
        return torch.cat((self.one_hot(state.card), self.one_hot(state.query)), 1).float()

    def figures(self) -> Spec:
        V, Q = self.values, self.questions
        agree = max(sum(self._count_is(g - 1, t, self.copies - 1, g) for t in range(Q)) for g in range(1, self.num_actions))
        differ = max(sum(self._count_is(g, t, self.copies, g) for t in range(Q)) for g in range(self.num_actions))
        return self.sheet(self.cards - 2, (agree / V + differ * (1 - 1 / V)) / Q, None, None)

    def _count_is(self, others: int, t: int, copies: int, guess: int) -> float:
        """P(`others` of the t cards before have the value queried, or if `guess` is the largest count, at least so many);
        `copies` of it are among the n - 1 cards that are not on show."""
        n, p = self.cards, 1 / self.values
        if others > t:
            return 0.0
        if not self.replacement:
            return math.comb(copies, others) * math.comb(n - 1 - copies, t - others) / math.comb(n - 1, t)
        if guess == self.copies:
            return tail(t, p, others)
        return math.comb(t, others) * p**others * (1 - p) ** (t - others)

    def tiles(self, state: Any) -> list[Tile]:
        count = min(state.dealt[state.query], self.copies)
        face, least = {"colors": ("colour", 0), "suits": ("suit", 0), "ranks": ("number", 1)}[self.kind]
        return [Tile(face, state.card + least, "shown"), Tile("more"), Tile(face, state.query + least, "asked"),
                Tile("number", count, "past")]  # fmt: skip
